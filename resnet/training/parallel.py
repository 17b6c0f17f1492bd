"""Data parallelism: a mesh over the local devices, and the steps spread over it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet.errors import InputError
from resnet.training.steps import eval_step, predict, train_steps

AXIS = "data"


def make_mesh(devices: int | None = None) -> Mesh:
    """The first `devices` local devices in one row; all by default."""
    return Mesh(np.asarray(jax.local_devices()[:devices]), (AXIS,))


def axis_name(mesh: Mesh) -> str | None:
    """The axis to average over; None on one device, where there is nothing to average."""
    return AXIS if mesh.size > 1 else None


def check_batch(batch_size: int, ghost_batch: int, devices: int) -> None:
    """Raises InputError unless each device gets the same whole number of images and ghost batches."""
    if batch_size % devices:
        raise InputError(f"`train.batch_size` must be divisible by the {devices} devices; got {batch_size}")
    if ghost_batch and (batch_size // devices) % ghost_batch:
        raise InputError(
            f"`model.ghost_batch` must divide the {batch_size // devices} images of each of the "
            f"{devices} devices (`train.batch_size` = {batch_size}); got {ghost_batch}"
        )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The whole tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def replicated(shapes: Any, mesh: Mesh) -> Any:
    """The same shapes, with the sharding of `replicate`: what a restored tree should be like."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _spread(function: Callable, mesh: Mesh, in_specs: tuple, out_specs: Any) -> Callable:
    """`function` once per device, on its share of the batch."""
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def make_train_steps(mesh: Mesh, **bound: Any) -> Callable:
    """Compiled (state, arrays, indices) -> (state, metrics) over the mesh; the state is donated."""
    everywhere, shares = PartitionSpec(), PartitionSpec(None, AXIS)
    steps = partial(train_steps, axis_name=axis_name(mesh), **bound)
    specs = (everywhere, everywhere, shares)
    return jax.jit(_spread(steps, mesh, specs, everywhere), donate_argnums=0)


def make_eval_step(mesh: Mesh, **bound: Any) -> Callable:
    """Compiled (variables, batch) -> sums over the mesh."""
    everywhere, shares = PartitionSpec(), PartitionSpec(AXIS)
    step = partial(eval_step, axis_name=axis_name(mesh), **bound)
    return jax.jit(_spread(step, mesh, (everywhere, shares), everywhere))


def make_predict(**bound: Any) -> Callable:
    """Compiled (variables, images) -> logits on one device."""
    return jax.jit(partial(predict, **bound))
