"""A state whose large arrays are divided over the devices that share each batch.

The step is then compiled as one program for all devices together: the compiler gathers a parameter where the
net uses it, adds up and divides its gradient, and updates it in parts. So norms are those of the whole.
"""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet.runtime.devices import DATA, ParallelConfig, data_axis
from resnet.runtime.processes import several


def divided_from(config: ParallelConfig, mesh: Mesh) -> int:
    """The elements from which on arrays are divided; 0 where each device holds all."""
    return config.shard_parameters if data_axis(mesh) else 0


def spec_of_shape(shape: tuple[int, ...], devices: int, least: int) -> PartitionSpec:
    """Divides the largest dimension that `devices` divide, of an array with `least` elements or more."""
    sides = [side if side % devices == 0 else 0 for side in shape]
    if math.prod(shape) < least or not any(sides):
        return PartitionSpec()
    axis = sides.index(max(sides))
    return PartitionSpec(*[None] * axis, DATA)


def specs_of(tree: Any, mesh: Mesh, least: int) -> Any:
    """The same tree with the spec of each array, by its shape alone: moments and averages as parameters."""
    devices = mesh.shape[DATA]
    return jax.tree.map(lambda leaf: spec_of_shape(leaf.shape, devices, least), tree)


def behind(axis: PartitionSpec, specs: Any) -> Any:
    """The specs of arrays that have more axes in front, which lie as `axis`."""
    return jax.tree.map(
        lambda spec: PartitionSpec(*axis, *spec), specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )


def gathered(tree: Any, mesh: Mesh, least: int) -> Any:
    """The tree whole on every device; the gradient to it is divided as the tree was."""
    return jax.tree.map(
        lambda leaf: _gathered(leaf, mesh, spec_of_shape(leaf.shape, mesh.shape[DATA], least)), tree
    )


def _gathered(leaf: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    constrained = jax.lax.with_sharding_constraint
    whole, part = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, spec)
    gather = jax.custom_vjp(lambda leaf: constrained(leaf, whole))
    gather.defvjp(lambda leaf: (constrained(leaf, whole), None), lambda _, g: (constrained(g, part),))
    return gather(leaf)


def fetched(tree: Any, mesh: Mesh) -> Any:
    """The tree on the host; what is divided over several processes comes to each of them, array by array."""

    whole = NamedSharding(mesh, PartitionSpec())

    def on_host(leaf: Any) -> Any:
        if not several() or not isinstance(leaf, jax.Array) or leaf.is_fully_replicated:
            return leaf
        return jax.device_get(jax.jit(lambda array: array, out_shardings=whole)(leaf))

    return jax.device_get(jax.tree.map(on_host, tree))
