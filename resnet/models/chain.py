"""A net taken apart: the chain of pure functions stem, blocks, head.

Parts that are equal but for the values of their variables share one compiled program, so that a
thousand layers take no longer to compile than ten. `flow` tells how large signal and gradient are in it.
"""

import copy
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from resnet.errors import check_choice
from resnet.models.config import ModelConfig
from resnet.models.geometry import block_specs, kind
from resnet.models.resnet import Block, Head, Stem
from resnet.models.scanning import BlockArrays, block_arrays
from resnet.models.shortcuts.table import ShortcutPath, starts_inside
from resnet.paths import leaf_paths

# Root mean squares outside of these are taken for overflow and underflow of float32.
SMALLEST, LARGEST = 1e-30, 1e30
STATISTICS = ("batch", "running")


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A link of the chain: the pure function x -> part(x), with its variables at hand.

    Its methods are compiled, and JAX can differentiate them: in reverse mode with either statistics, in
    forward mode with running ones alone.
    """

    name: str
    """As in the paths of parameters: stem, stage1/block1 …, head."""
    module: Any
    train: bool
    """Whether batch norms use the statistics of the batch."""
    variables: dict[str, Any]
    """{"params", "batch_stats"} of this part alone."""
    arrays: BlockArrays | None = None
    """What a block has beside its variables; None for stem and head."""
    regular: bool = False
    """Whether the shortcut starts at x itself and keeps its shape: not in the blocks between two stages,
    nor in one whose shortcut shares the branch's first activation."""

    def __call__(self, x: Array) -> Array:
        return self.apply(self.variables, x)

    def apply(self, variables: dict[str, Any], x: Array) -> Array:
        """The part with other variables."""
        return _output(self.module, self.train, variables, self.arrays, x)

    def open(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """(the output, what the block shows by name: `branch` is F(x), `shortcut/opening` that of a gate)."""
        return _open(self.module, self.train, self.variables, self.arrays, x)

    def responses(self, x: Array) -> dict[str, Array]:
        """Output of every layer in the part, by path ("conv1", "norm1", "shortcut/norm", …)."""
        return _responses(self.module, self.train, self.variables, self.arrays, x)

    def branch(self, x: Array) -> Array:
        """F(x) of a block."""
        return self.open(x)[1]["branch"]

    def join(self, x: Array, branch: Array) -> Array:
        """The block's output if its branch gave `branch`; zeros delete the branch."""
        return _output(self.module, self.train, self.variables, self.arrays, x, branch)

    def pull(self, x: Array, gradient: Array) -> Array:
        """The gradient at the output brought to the input x."""
        return _pull(self.module, self.train, self.variables, self.arrays, x, gradient)

    def push(self, x: Array, tangent: Array) -> Array:
        """The change of the output by a small change of the input x; for running statistics alone."""
        return _push(self.module, self.train, self.variables, self.arrays, x, tangent)

    def pull_through(self, x: Array, gradient: Array, *, branch: bool) -> Array:
        """The part of `pull` through F alone, or through the shortcut alone; the two add up to it."""
        return _pull_through(self.module, self.train, branch, self.variables, self.arrays, x, gradient)


def parts(
    config: ModelConfig, num_outputs: int, variables: dict[str, Any], statistics: str = "running"
) -> list[Part]:
    """Stem, blocks and head of a net. Their composition is the net, without the noise of training.

    They compute in the type of what they are given: from float32 images in float32, whatever `dtype` is.
    `statistics`: what batch norms use, those of the `batch` as in training, or the `running` ones. Raises
    InputError for others.
    """
    check_choice("statistics", statistics, STATISTICS)
    config = copy.copy(config)  # what is done to the given one later changes no part

    def part(name: str, make: Callable[[ModelConfig], Any], **block: Any) -> Part:
        mine = {collection: _subtree(tree, name) for collection, tree in variables.items()}
        module = make(_fixed_within(config, name, mine.get("batch_stats", {})))
        return Part(name, module, statistics == "batch", mine, **block)

    blocks = [
        part(
            spec.name,
            lambda config, spec=spec: Block(config, kind(spec), parent=None),
            arrays=block_arrays(config, spec, key=None),
            regular=not (spec.changes_shape or starts_inside(config, spec)),
        )
        for spec in block_specs(config)
    ]
    stem = part("stem", lambda config: Stem(config, parent=None))
    return [stem, *blocks, part("head", lambda config: Head(config, num_outputs, parent=None))]


def _subtree(tree: Any, name: str) -> Any:
    """What lies below stage1/block1; {} where nothing does."""
    for key in name.split("/"):
        tree = tree.get(key, {})
    return tree


def _fixed_within(config: ModelConfig, name: str, statistics: Any) -> ModelConfig:
    """The config in which `bn_fixed` names the same norms by their paths within the part `name`."""
    if not config.bn_fixed:
        return config
    norms = {path.rpartition("/")[0] for path in leaf_paths(statistics)}
    fixed = sorted(norm for norm in norms if re.search(config.bn_fixed, f"{name}/{norm}/"))
    return dataclasses.replace(config, bn_fixed="|".join(f"^{norm}/$" for norm in fixed))


def _apply(
    module: Any,
    train: bool,
    variables: Any,
    arrays: Any,
    x: Array,
    branch: Array | None = None,
    **options: Any,
) -> tuple[Array, dict[str, Array]]:
    """(output, what the part shows) of a part, F(x) among it; with `branch` given, that takes its place."""
    shown = {}

    def join(merge: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if not isinstance(context.module, ShortcutPath):
            return merge(*args, **kwargs)
        x, shown["branch"], *rest = args
        return merge(x, shown["branch"] if branch is None else branch, *rest, **kwargs)

    arguments = {Block: {"arrays": arrays}, Head: {"key": None}}.get(type(module), {})
    mutable = ["batch_stats", "intermediates"]
    with nn.intercept_methods(join):
        y, state = module.apply(variables, x, **arguments, train=train, mutable=mutable, **options)
    sown: dict[str, Any] = flatten_dict(state.get("intermediates", {}), sep="/")
    shown |= {path: values[0] for path, values in sown.items()}
    return y[0] if isinstance(module, Head) else y, shown


@functools.partial(jax.jit, static_argnums=(0, 1))
def _output(module, train, variables, arrays, x: Array, branch: Array | None = None) -> Array:
    return _apply(module, train, variables, arrays, x, branch)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _open(module, train, variables, arrays, x: Array) -> tuple[Array, dict[str, Array]]:
    return _apply(module, train, variables, arrays, x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _responses(module, train, variables, arrays, x: Array) -> dict[str, Array]:
    shown = _apply(module, train, variables, arrays, x, capture_intermediates=_is_layer)[1]
    return {path.removesuffix("/__call__"): y for path, y in shown.items() if path.endswith("/__call__")}


def _is_layer(module: nn.Module, method: str) -> bool:
    return method == "__call__" and module.name not in (None, "shortcut", "streams")


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pull(module, train, variables, arrays, x: Float[Array, "..."], gradient: Array) -> Array:
    return jax.vjp(lambda x: _apply(module, train, variables, arrays, x)[0], x)[1](gradient)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _push(module, train, variables, arrays, x: Float[Array, "..."], tangent: Array) -> Array:
    return jax.jvp(lambda x: _apply(module, train, variables, arrays, x)[0], (x,), (tangent,))[1]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pull_through(module, train, through_branch, variables, arrays, x: Array, gradient: Array) -> Array:
    def branch(x: Array) -> Array:
        return _apply(module, train, variables, arrays, x)[1]["branch"]

    def output(x: Array, f: Array) -> Array:
        return _apply(module, train, variables, arrays, x, f)[0]

    f = branch(x)
    through = (lambda z: output(x, branch(z))) if through_branch else (lambda z: output(z, f))
    return jax.vjp(through, x)[1](gradient)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """Natural logarithms of root mean squares, over images, pixels and channels.

    A joint lies before each block, and one behind the last. What lies beyond the joint at which the
    signal leaves the range of float32 is NaN, and so is a gradient that is exactly 0.
    """

    blocks: tuple[str, ...]
    x: Float[np.ndarray, " joints"]
    branch: Float[np.ndarray, " blocks"]
    """Of F(x), before the shortcut scales or gates it."""
    cosine: Float[np.ndarray, " blocks"]
    """Between x and F(x), mean over the images; NaN where their shapes differ."""
    gradient: Float[np.ndarray, " joints"]
    """Of the gradient to the joint; its root mean square at the top is 1 if it starts as noise.

    It starts so where the signal dies on the way up.
    """


def joints(chain: Sequence[Part], x: Array) -> list[Array]:
    """Returns x and the output of each part of the chain, in order."""
    return list(itertools.accumulate(chain, lambda x, part: part(x), initial=x))


def flow(parts: Sequence[Part], images: Float[Array, "b h w c"], gradient_at_top) -> Flow:
    """Sends images up the chain `parts`, and a gradient down.

    `gradient_at_top(x)` gives the gradient to x, the output of the last block. Where the signal dies before
    it, noise goes down from the last joint alive. The gradient is renormalised at every joint, and its scale
    kept as a logarithm: no depth over- or underflows.
    """
    stem, blocks = parts[0], [part for part in parts if part.arrays is not None]
    signal, shown = [stem(images)], []
    for block in blocks:
        y, inside = block.open(signal[-1])
        shown.append(_compare(signal[-1], inside["branch"]))
        signal.append(y)
    scales = np.array(jax.device_get([rms(x) for x in signal]), np.float64)
    branch, cosine = np.array(jax.device_get(shown), np.float64).T
    top = _last_alive(scales)
    with np.errstate(divide="ignore"):
        result = Flow(
            tuple(block.name for block in blocks), np.log(scales), np.log(branch), cosine,
            np.full(len(signal), np.nan),
        )  # fmt: skip
    for values, alive in ((result.x, top + 1), (result.branch, top), (result.cosine, top)):
        values[alive:] = np.nan
    gradient = (gradient_at_top if top == len(blocks) else noise_like)(signal[top])
    result.gradient[: top + 1] = _down(blocks[:top], signal[:top], gradient)
    return result


def noise_like(x: Array, seed: int = 0) -> Array:
    """Normal values with root mean square 1."""
    noise = jax.random.normal(jax.random.key(seed), x.shape, x.dtype)
    return noise / rms(noise)


def _down(blocks: Sequence[Part], inputs: Sequence[Array], gradient: Array) -> np.ndarray:
    """Logarithm of the gradient's scale at every input and, last, at the output of the blocks."""
    scales = [rms(gradient)]
    for block, x in zip(reversed(blocks), reversed(inputs), strict=True):
        gradient = block.pull(x, gradient / jnp.where(scales[-1] > 0, scales[-1], 1))
        scales.append(rms(gradient))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.cumsum(np.log(np.array(jax.device_get(scales), np.float64)))[::-1]
    return np.where(np.isfinite(logs), logs, np.nan)


def _last_alive(scales: np.ndarray) -> int:
    """The last joint up to which the signal is in the range of float32; 0 at least."""
    dead = ~((scales > SMALLEST) & (scales < LARGEST))
    return max(int(np.argmax(dead)) - 1, 0) if dead.any() else len(scales) - 1


@jax.jit
def rms(x: Array) -> Array:
    """Root mean square; x is scaled first, because squares overflow at 1e19."""
    wide = x.astype(jnp.float32)
    largest = jnp.maximum(jnp.abs(wide).max(), jnp.finfo(jnp.float32).tiny)
    return largest * jnp.sqrt(jnp.square(wide / largest).mean())


@jax.jit
def _compare(x: Array, branch: Array) -> tuple[Array, Array]:
    """(root mean square of F(x), cosine between x and F(x))."""
    if x.shape != branch.shape:
        return rms(branch), jnp.float32(jnp.nan)
    a, b = (v.astype(jnp.float32).reshape(len(v), -1) / rms(v) for v in (x, branch))
    norms = jnp.sqrt(jnp.square(a).sum(1) * jnp.square(b).sum(1))
    return rms(branch), ((a * b).sum(1) / norms).mean()
