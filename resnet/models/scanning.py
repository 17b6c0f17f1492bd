"""Long stages as scans: the variables of equal blocks along an axis of their own, and one block for all.

Files, and whoever looks into a net, have the blocks apart, each under its own path. Programs that train
have them stacked from step to step: else each parameter would be stacked, sliced and updated by itself,
and compiling would take as long as the net is deep.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.models.geometry import blocks_per_stage
from resnet.models.paths import parameter_path

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig

# Blocks of a stage that are compiled one by one in seconds: up to ResNet-56, and all but ResNet-101 and 152.
UNROLLED = 9
# The name of blocks 2 to n of a stage, once they are stacked; the first often has another shape.
STACKED = "blocks"


def scans(config: "ModelConfig", blocks: int) -> bool:
    """Whether a stage of so many blocks runs them as one."""
    if config.scan_blocks is None:
        return blocks > UNROLLED and not config.bn_fixed
    return config.scan_blocks and blocks > 2


def any_scanned(config: "ModelConfig") -> bool:
    """Whether the net has a stage that runs its blocks as one."""
    return any(scans(config, blocks) for blocks in blocks_per_stage(config))


def compiles_quickly(config: "ModelConfig") -> bool:
    """Whether half the time to compile costs no speed: of many kernels, few are slow."""
    return any_scanned(config) and config.dtype == "float32"


def stack_trees(trees: Sequence[Any], stack: Callable = jnp.stack) -> Any:
    """Trees of one structure as one tree, along a new leading axis."""
    return jax.tree.map(lambda *leaves: stack(leaves), *trees)


def unstack_trees(tree: Any) -> list[Any]:
    """What `stack_trees` put together; arrays on the host remain arrays, even of a single number."""
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i, ...], tree) for i in range(count)]


def stack_blocks(config: "ModelConfig", tree: Any) -> Any:
    """A tree of variables on the host, or of a state, with the blocks that are scanned as one."""

    def stage(node: Any) -> Any:
        if not _is_stage(node) or not scans(config, len(node)):
            return node
        names = [f"block{i}" for i in range(2, len(node) + 1)]
        return {"block1": node["block1"], STACKED: stack_trees([node[name] for name in names], np.stack)}

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
