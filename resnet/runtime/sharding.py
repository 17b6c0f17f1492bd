"""How states lie over devices: seeds along an axis, each state whole on its devices or divided over them.

Where a state is divided, the step is compiled as one program for all devices together: the compiler gathers a
parameter where the net uses it, adds up and divides its gradient, and updates it in parts. So norms are those
of the whole.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet.models.config import ModelConfig
from resnet.models.scanning import stack_blocks, stack_trees, unstack_blocks, unstack_trees
from resnet.runtime.devices import DATA, ParallelConfig, data_axis, place, shardings, spec_of_seeds
from resnet.runtime.processes import several


@dataclasses.dataclass(frozen=True, eq=False)
class StateLayout:
    """Puts the states of several seeds on the devices of a mesh, and brings them back.

    On the devices they are one tree, as programs take it: seeds, and blocks that are scanned, lie along axes.
    Apart, each seed has a state of its own, with its blocks apart, as it lies on disk.
    """

    net: ModelConfig
    mesh: Mesh
    seeds: int
    least: int
    """Elements from which on an array is divided over the devices that share a batch; 0: none is."""
    run: Any
    """Shapes of one seed's state, apart."""

    @property
    def spec(self) -> PartitionSpec:
        """How metrics lie over the mesh, and states that are whole on each device."""
        return spec_of_seeds(self.seeds)

    @cached_property
    def specs(self) -> Any:
        """How the states lie over the mesh: one spec, or one for each array."""
        if not self.least:
            return self.spec
        shapes = jax.eval_shape(lambda state: stack_blocks(self.net, state, jnp.stack), self.run)
        return jax.tree.map(
            lambda spec: PartitionSpec(*self.spec, *spec),
            specs_of(shapes, self.mesh, self.least),
            is_leaf=lambda node: isinstance(node, PartitionSpec),
        )

    @cached_property
    def apart(self) -> Any:
        """Shapes of one seed's state, and how it is restored and saved: whole on each device, or divided."""
        return self._shapes(self.run, specs_of(self.run, self.mesh, self.least))

    @cached_property
    def together(self) -> Any:
        """Shapes of all seeds' states, and how they lie on the devices."""
        shapes = jax.eval_shape(lambda state: self._stacked([state] * self.seeds, jnp.stack), self.run)
        return self._shapes(shapes, self.specs if self.least else jax.tree.map(lambda _: self.spec, shapes))

    def _shapes(self, shapes: Any, specs: Any) -> Any:
        def laid(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(self.mesh, spec))

        return jax.tree.map(laid, shapes, specs)

    def to_devices(self, states: Sequence[Any]) -> Any:
        """A state of each seed, whole, or divided as `apart` says, as programs take them."""
        if self.least:
            own = specs_of(self.run, self.mesh, self.least)
            return self._join(place(list(states), self.mesh, [own] * self.seeds))
        # On the host, where nothing has to be compiled for each shape.
        return place(self._stacked(jax.device_get(states), np.stack), self.mesh, self.spec)

    def to_host(self, tree: Any) -> list[Any]:
        """On the host, each seed's part of a state, of a part of it or of metrics, with its blocks apart."""
        return self._divided_by_seed(fetched(tree))

    def to_save(self, state: Any) -> list[Any]:
        """The states to save, one a seed: whole ones on the host, divided ones in parts on their devices."""
        return self._part(state) if self.least else self.to_host(state)

    def _stacked(self, states: Sequence[Any], stack: Callable) -> Any:
        trees = [stack_blocks(self.net, tree, stack) for tree in states]
        return stack_trees(trees, stack) if self.seeds > 1 else trees[0]

    def _divided_by_seed(self, tree: Any) -> list[Any]:
        return [unstack_blocks(own) for own in (unstack_trees(tree) if self.seeds > 1 else [tree])]

    @cached_property
    def _join(self) -> Callable:
        """Compiled: states apart -> together, on the devices."""
        together = shardings(self.specs, self.mesh)
        return jax.jit(lambda states: self._stacked(states, jnp.stack), out_shardings=together)

    @cached_property
    def _part(self) -> Callable:
        """Compiled: states together -> apart, on the devices."""
        own = shardings(specs_of(self.run, self.mesh, self.least), self.mesh)
        return jax.jit(self._divided_by_seed, out_shardings=[own] * self.seeds)


def divided_from(config: ParallelConfig, mesh: Mesh) -> int:
    """The elements from which on arrays are divided; 0 where each device holds all."""
    return config.shard_parameters if data_axis(mesh) else 0


def spec_of_shape(shape: tuple[int, ...], devices: int, least: int) -> PartitionSpec:
    """Divides the largest dimension that `devices` divide, of an array with `least` elements or more.

    With 0 for `least`, no array is divided.
    """
    sides = [side if side % devices == 0 else 0 for side in shape]
    if not least or math.prod(shape) < least or not any(sides):
        return PartitionSpec()
    axis = sides.index(max(sides))
    return PartitionSpec(*[None] * axis, DATA)


def specs_of(tree: Any, mesh: Mesh, least: int) -> Any:
    """The same tree with the spec of each array, by its shape alone: moments and averages as parameters."""
    devices = mesh.shape[DATA]
    return jax.tree.map(lambda leaf: spec_of_shape(leaf.shape, devices, least), tree)


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


def fetched(tree: Any) -> Any:
    """The tree on the host; what is divided over several processes comes to each of them, array by array."""

    def on_host(leaf: Any) -> Any:
        if not several() or not isinstance(leaf, jax.Array) or leaf.is_fully_replicated:
            return leaf
        assert isinstance(leaf.sharding, NamedSharding)
        return jax.device_get(_gathering(leaf.sharding.mesh)(leaf))

    return jax.device_get(jax.tree.map(on_host, tree))


@cache
def _gathering(mesh: Mesh) -> Callable:
    """A function that brings an array to each device; it is kept, and so compiled once for each shape."""
    return jax.jit(lambda array: array, out_shardings=NamedSharding(mesh, PartitionSpec()))


def finite(tree: Any) -> list[bool]:
    """Whether each array of a tree holds finite numbers alone; those on devices are looked at there."""
    leaves = jax.tree.leaves(tree)
    if all(isinstance(leaf, jax.Array) for leaf in leaves):
        return list(map(bool, jax.device_get(_finite(leaves))))
    return [bool(np.isfinite(leaf).all()) for leaf in leaves]


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]
