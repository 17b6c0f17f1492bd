"""Long stages as scans: the variables of equal blocks along an axis of their own, and one block for all.

Files and analyses see each block under its own path. Programs that train keep the variables of equal
blocks stacked from step to step: otherwise the optimiser would update each block's parameters separately,
and the time to compile would grow with depth.

"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.models.branches import BRANCHES
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import blocks_per_stage, count_blocks
from resnet.models.shortcuts.table import SHORTCUTS, streams_of
from resnet.paths import parameter_path

# Blocks of a stage that are compiled one by one in seconds: up to ResNet-110 and 164, not ResNet-101 and 152.
UNROLLED = 18
# The name of blocks 2 to n of a stage, once they are stacked; the first often has another shape.
STACKED = "blocks"


def scans(config: ModelConfig, blocks: int) -> bool:
    """Whether a stage of so many blocks runs them as one."""
    several = blocks > 2
    if config.scan_blocks is None:
        gains = config.remat or blocks > UNROLLED  # memory, or time to compile
        return several and gains and not config.bn_fixed and not config.widening
    return config.scan_blocks and several


def compiles_quickly(config: "ModelConfig") -> bool:
    """Tells whether to compile at a low level of optimisation.

    This level halves the time to compile a scanned net in float32, and leaves its steps as fast.
    """
    scanned = any(scans(config, blocks) for blocks in blocks_per_stage(config))
    return scanned and config.dtype == "float32"


def stack_trees(trees: Sequence[Any], stack: Callable = jnp.stack) -> Any:
    """Trees of one structure as one tree, along a new leading axis."""
    return jax.tree.map(lambda *leaves: stack(leaves), *trees)


def unstack_trees(tree: Any) -> list[Any]:
    """What `stack_trees` put together; arrays on the host remain arrays, even of a single number."""
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i, ...], tree) for i in range(count)]


def stack_blocks(config: ModelConfig, tree: Any, stack: Callable = np.stack) -> Any:
    """A tree of variables, or of a state, with the blocks that are scanned as one; on the host by default."""

    def stage(node: Any) -> Any:
        if not _is_stage(node) or not scans(config, len(node)):
            return node
        names = [f"block{i}" for i in range(2, len(node) + 1)]
        return {"block1": node["block1"], STACKED: stack_trees([node[name] for name in names], stack)}

    return jax.tree.map(stage, tree, is_leaf=_is_stage)


def unstack_blocks(tree: Any) -> Any:
    """What `stack_blocks` put together."""

    def stage(node: Any) -> Any:
        if not _is_stage(node) or STACKED not in node:
            return node
        apart = {f"block{i}": block for i, block in enumerate(unstack_trees(node[STACKED]), 2)}
        return {"block1": node["block1"], **apart}

    return jax.tree.map(stage, tree, is_leaf=_is_stage)


def _is_stage(node: Any) -> bool:
    return isinstance(node, dict) and "block1" in node


def is_stacked(path: tuple) -> bool:
    """Whether the leaf of this path holds several blocks."""
    return STACKED in parameter_path(path).split("/")


def by_path(rule: Callable[[str], Any], tree: Any) -> Any:
    """rule(path) for every leaf; where blocks are stacked and differ, an array along their axis."""

    def value(path: tuple, leaf: Any) -> Any:
        if not is_stacked(path):
            return rule(parameter_path(path))
        names = [f"/block{i + 2}/" for i in range(len(leaf))]
        values = [rule(parameter_path(path).replace(f"/{STACKED}/", name)) for name in names]
        same = all(value == values[0] for value in values)
        return values[0] if same else np.reshape(values, (-1, *[1] * (leaf.ndim - 1)))

    return jax.tree_util.tree_map_with_path(value, tree)


def each_block(function: Callable, tree: Any, *others: Any) -> Any:
    """tree.map of `function`, which is given one block's leaf at a time where they are stacked."""

    def each(path: tuple, *leaves: Any) -> Any:
        return (jax.vmap(function) if is_stacked(path) else function)(*leaves)

    return jax.tree_util.tree_map_with_path(each, tree, *others)


@flax.struct.dataclass
class BlockArrays:
    """What differs between blocks of one shape, as arrays, so that scanned blocks can be given theirs.

    None where the net does not use it.
    """

    input_scale: Float[Array, "..."] | None = None
    """Factor on what enters the branch."""
    key: Array | None = None
    """Of the random draws of training."""
    survival: Float[Array, "..."] | None = None
    """Probability that stochastic depth keeps the branch, where that changes what is computed."""
    number: Float[Array, "..."] | None = None
    """What the shortcut is given of the block's place."""

    def keys(self) -> tuple[Array | None, Array | None, Array | None]:
        """Keys of the draws of the branch, of its survival, and of the shortcut; None in evaluation."""
        return (None, None, None) if self.key is None else tuple(jax.random.split(self.key, 3))

    def scaled(self, x: Array) -> Array:
        """What enters the branch."""
        return x if self.input_scale is None else x * self.input_scale.astype(x.dtype)

    def survive(self, branch: Array, key: Array | None, each: str) -> Array:
        """Applies stochastic depth to F(x); b is 1 with probability `survival`, else 0.

        `each` is batch: one b for all images, b F(x) in training and survival F(x) in evaluation (Huang
        2016). `each` is image: one b for each image, b F(x) / survival in training and F(x) in evaluation
        (timm's drop path).
        """
        if self.survival is None:
            return branch
        if key is None:
            return self.survival.astype(branch.dtype) * branch
        if each == "batch":
            return jnp.where(jax.random.bernoulli(key, self.survival), branch, 0)
        kept = jax.random.bernoulli(key, self.survival, (len(branch), *[1] * (branch.ndim - 1)))
        return jnp.where(kept, branch / self.survival, 0).astype(branch.dtype)


def block_arrays(config: ModelConfig, block: BlockSpec, key: Array | None) -> BlockArrays:
    """The arrays of one block; `key` is the net's, for training, or None."""
    shortcut = SHORTCUTS[config.shortcut]

    def given(number: Callable[[ModelConfig, BlockSpec], float] | None) -> Array | None:
        return None if number is None else jnp.float32(number(config, block))

    drops = config.stochastic_depth and (key is not None or config.stochastic_depth_each == "batch")
    return BlockArrays(
        input_scale=given(shortcut.input_scale),
        key=None if key is None else jax.random.fold_in(key, block.index),
        survival=given(survival_probability if drops else None),
        number=given(shortcut.number),
    )


def survival_probability(config: ModelConfig, block: BlockSpec) -> float:
    """p_l of stochastic depth: 1 - l / L * (1 - p_L) for the linear rule, l = 1 ... L."""
    share = 1.0
    if config.stochastic_depth_rule == "linear":
        share = (block.index + 1) / count_blocks(config)
    return 1 - share * config.stochastic_depth


def is_random(config: ModelConfig) -> bool:
    """Whether training draws random numbers inside the net."""
    rates = (config.branch_dropout, config.head_dropout, config.stochastic_depth)
    return any(rates) or SHORTCUTS[config.shortcut].draws or BRANCHES[config.branch].copies > 1


def scan_blocks(
    stage: nn.Module,
    block: Any,
    names: Sequence[str],
    arrays: Sequence[BlockArrays],
    x: Array,
    train: bool,
) -> tuple[Array, dict[str, Array]]:
    """(output, outputs by name) of the blocks `names` of a stage, run as `block` with the variables of each.

    The stage's variables are stacked already, or come apart and are stacked here.
    """
    variables = {
        collection: tree[STACKED] if STACKED in tree else stack_trees([tree[name] for name in names])
        for collection, tree in stage.variables.items()
        if STACKED in tree or names[0] in tree
    }
    params = variables.pop("params")
    config, updates = block.config, train and stage.is_mutable_collection("batch_stats")

    def step(x, inputs):
        params, (others, arrays) = inputs
        variables = {"params": params, **others}
        y, updated = block.apply(variables, x, arrays, train, mutable=["batch_stats"] if updates else [])
        return y, (y, updated)

    streams = streams_of(config)
    # Rounded sums do not give back what they were made of closely enough for gradients.
    if config.remat and streams and streams.scan and config.dtype == "float32":
        scan = streams.scan
    else:
        scan, step = jax.lax.scan, jax.checkpoint(step) if config.remat else step
    x, (outputs, updated) = scan(step, x, (params, (variables, stack_trees(arrays))))
    for collection, tree in updated.items():
        if STACKED in stage.variables[collection]:
            stage.put_variable(collection, STACKED, tree)
            continue
        for name, own in zip(names, unstack_trees(tree), strict=True):
            stage.put_variable(collection, name, own)
    return x, dict(zip(names, outputs, strict=True))
