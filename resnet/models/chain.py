"""A net taken apart: the chain of pure functions stem, blocks, head.

Parts that are equal but for the values of their variables share one compiled program, so that a
thousand layers take no longer to compile than ten.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from resnet.models.branches import ORDERS
from resnet.models.geometry import BlockSpec, block_specs, shares_start
from resnet.models.paths import leaf_paths
from resnet.models.resnet import Block, Head
from resnet.models.shortcuts import BlockArrays, block_arrays
from resnet.models.stems import Stem

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A link of the chain: the pure function x -> part(x), with its variables at hand.

    Its methods are compiled, and can be differentiated by JAX in every way.
    """

    name: str
    """As in the paths of parameters: stem, stage1/block1 …, head."""
    module: Any
    train: bool
    """Whether batch norms use the statistics of the batch."""
    variables: dict[str, Any]
    """{"params", "batch_stats"} of this part alone."""
    own: BlockArrays | None = None
    """What a block has beside its variables; None for stem and head."""
    regular: bool = False
    """Whether the shortcut starts at x itself and keeps its shape: not in the blocks between two stages,
    nor in one whose shortcut shares the branch's first activation."""

    def __call__(self, x: Array) -> Array:
        return self.apply(self.variables, x)

    def apply(self, variables: dict[str, Any], x: Array) -> Array:
        """The part with other variables."""
        return _output(self.module, self.train, variables, self.own, x)

    def open(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """(the output, what the block shows by name: `branch` is F(x), `shortcut/opening` that of a gate)."""
        return _open(self.module, self.train, self.variables, self.own, x)

    def responses(self, x: Array) -> dict[str, Array]:
        """Output of every layer in the part, by path ("conv1", "norm1", "shortcut/norm", …)."""
        return _responses(self.module, self.train, self.variables, self.own, x)

    def branch(self, x: Array) -> Array:
        """F(x) of a block."""
        return self.open(x)[1]["branch"]

    def join(self, x: Array, branch: Array) -> Array:
        """The block's output if its branch gave `branch`; zeros delete the branch."""
        return _output(self.module, self.train, self.variables, {**(self.own or {}), "branch": branch}, x)

    def pull(self, x: Array, gradient: Array) -> Array:
        """The gradient at the output brought to the input x."""
        return _pull(self.module, self.train, self.variables, self.own, x, gradient)

    def push(self, x: Array, tangent: Array) -> Array:
        """The change of the output by a small change of the input x; for running statistics alone."""
        return _push(self.module, self.train, self.variables, self.own, x, tangent)

    def pull_through(self, x: Array, gradient: Array, *, branch: bool) -> Array:
        """What of it comes through F alone, or through the shortcut alone: the two add up to `pull`."""
        return _pull_through(self.module, self.train, branch, self.variables, self.own, x, gradient)


def parts(
    config: "ModelConfig", num_outputs: int, variables: dict[str, Any], statistics: str = "running"
) -> list[Part]:
    """Stem, blocks and head of a net. Their composition is the net, without the noise of training.

    `statistics`: what batch norms use, those of the `batch` as in training, or the `running` ones.
    """
    preactivation = ORDERS[config.order].preactivation

    def part(name: str, make: Callable[["ModelConfig"], Any], **block: Any) -> Part:
        mine = {collection: _subtree(tree, name) for collection, tree in variables.items()}
        module = make(_fixed_within(config, name, mine.get("batch_stats", {})))
        return Part(name, module, statistics == "batch", mine, **block)

    blocks = [
        part(
            spec.name,
            lambda config, spec=spec: Block(config, _kind(spec), parent=None),
            own=block_arrays(config, spec, key=None),
            regular=not (spec.changes_shape or shares_start(config, spec, preactivation)),
        )
        for spec in block_specs(config)
    ]
    stem = part("stem", lambda config: Stem(config, parent=None))
    return [stem, *blocks, part("head", lambda config: Head(config, num_outputs, parent=None))]


def _kind(spec: BlockSpec) -> BlockSpec:
    """The block without its place, of which only being the first decides what is computed."""
    return dataclasses.replace(spec, stage=0, block=0, index=min(spec.index, 1))


def _subtree(tree: Any, name: str) -> Any:
    """What lies below stage1/block1; {} where nothing does."""
    for key in name.split("/"):
        tree = tree.get(key, {})
    return tree


def _fixed_within(config: "ModelConfig", name: str, statistics: Any) -> "ModelConfig":
    """The config in which `bn_fixed` names the same norms by their paths within the part `name`."""
    if not config.bn_fixed:
        return config
    norms = {path.rpartition("/")[0] for path in leaf_paths(statistics)}
    fixed = sorted(norm for norm in norms if re.search(config.bn_fixed, f"{name}/{norm}"))
    return dataclasses.replace(config, bn_fixed="|".join(f"^{norm}$" for norm in fixed))


def _apply(module: Any, train: bool, variables: Any, own: Any, x: Array, **options: Any) -> Any:
    """(output, what was sown) of a part."""
    arguments = {Block: {"own": own}, Head: {"key": None}}.get(type(module), {})
    mutable = ["batch_stats", "intermediates"]
    y, state = module.apply(variables, x, **arguments, train=train, mutable=mutable, **options)
    sown: dict[str, Any] = flatten_dict(state.get("intermediates", {}), sep="/")
    return y[0] if isinstance(module, Head) else y, {path: values[0] for path, values in sown.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _output(module, train, variables, own, x: Array) -> Array:
    return _apply(module, train, variables, own, x)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _open(module, train, variables, own, x: Array) -> tuple[Array, dict[str, Array]]:
    return _apply(module, train, variables, own, x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _responses(module, train, variables, own, x: Array) -> dict[str, Array]:
    sown = _apply(module, train, variables, own, x, capture_intermediates=_is_layer)[1]
    return {path.removesuffix("/__call__"): y for path, y in sown.items() if path.endswith("/__call__")}


def _is_layer(module: nn.Module, method: str) -> bool:
    return method == "__call__" and module.name is not None and module.name != "shortcut"


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pull(module, train, variables, own, x: Float[Array, "..."], gradient: Array) -> Array:
    return jax.vjp(lambda x: _apply(module, train, variables, own, x)[0], x)[1](gradient)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _push(module, train, variables, own, x: Float[Array, "..."], tangent: Array) -> Array:
    return jax.jvp(lambda x: _apply(module, train, variables, own, x)[0], (x,), (tangent,))[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pull_through(module, train, through_branch, variables, own, x: Array, gradient: Array) -> Array:
    def branch(x: Array) -> Array:
        return _apply(module, train, variables, own, x)[1]["branch"]

    def output(x: Array, f: Array) -> Array:
        return _apply(module, train, variables, {**own, "branch": f}, x)[0]

    f = branch(x)
    through = (lambda z: output(x, branch(z))) if through_branch else (lambda z: output(z, f))
    return jax.vjp(through, x)[1](gradient)[0]
