"""A mesh over the local devices, and the steps spread over it: by seeds first, then by images."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet.errors import InputError, check_at_least
from resnet.kernels import native
from resnet.models.scanning import any_scanned, stack_blocks, stack_trees, unstack_blocks, unstack_trees
from resnet.runtime.processes import several
from resnet.training.steps import each_seed, eval_step, predict, train_steps

if TYPE_CHECKING:
    from resnet.models.config import ModelConfig

SEEDS, DATA = "seeds", "data"
# What XLA leaves to YNNPACK by default, but for convolutions: it runs each of them on one thread.
WITHOUT_YNN_CONVOLUTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}
# XLA's older way to make kernels, and LLVM's first level: a scanned net has many kernels, few of them slow.
COMPILED_QUICKLY = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


@dataclasses.dataclass(unsafe_hash=True)
class ParallelConfig:
    """How the processors are used: decides the speed, and, of the numbers, only the rounding."""

    host_devices: int = 0
    """Devices that the CPU counts as, each with a share of the seeds or images; 0 = chosen by seeds."""
    native: bool = True
    """Whether the CPU may use our own convolutions, which are compiled at their first use, for XLA's."""
    keep_memory: bool = True
    """Whether memory that is freed stays with the process, for the next step, where glibc serves it."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_at_least("parallel.host_devices", self.host_devices, 0)


def host_devices(config: ParallelConfig, seeds: int) -> int:
    """As many devices as the CPU should count as.

    Where none are asked for: the most that share the seeds evenly, at most one a processor. Splitting
    the images of one seed pays for some nets only, and rounds its statistics otherwise.
    """
    return config.host_devices or max(n for n in range(1, processors() + 1) if seeds % n == 0)


def processors() -> int:
    """Processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def make_mesh(devices: int | None = None, seeds: int = 1) -> Mesh:
    """The first `devices`, all by default, as [seeds, data]; of several processes, those of all.

    Seeds that the devices can share evenly need no word between them; where there are more devices,
    they share the images of each batch. Of several processes each has all seeds, to be able to save them.
    """
    found = np.asarray(jax.devices()[:devices])
    groups = 1 if several() else math.gcd(seeds, len(found))
    return Mesh(found.reshape(groups, -1), (SEEDS, DATA))


def axis_name(mesh: Mesh) -> str | None:
    """The axis to average over; None where each batch is on one device."""
    return DATA if mesh.shape[DATA] > 1 else None


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
    return _place(tree, mesh, PartitionSpec())


def replicated(shapes: Any, mesh: Mesh) -> Any:
    """The same shapes, with the sharding of `replicate`: what a restored tree should be like."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def stack(trees: Sequence[Any], mesh: Mesh, config: "ModelConfig") -> Any:
    """The trees of several seeds as one with a leading axis, spread over the devices, as steps take them.

    Within each the blocks that are scanned are stacked too.
    """
    # On the host, where nothing has to be compiled for each shape.
    trees = [stack_blocks(config, tree) for tree in jax.device_get(trees)]
    return _place(stack_trees(trees, np.stack), mesh, PartitionSpec(SEEDS))


def unstack(tree: Any) -> list[Any]:
    """On the host, the trees that `stack` put together."""
    return [unstack_blocks(own) for own in unstack_trees(jax.device_get(tree))]


def _place(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """The tree over the mesh; several processes hold the same, and each gives its devices their part."""
    sharding = NamedSharding(mesh, spec)
    if not several():
        return jax.device_put(tree, sharding)

    def parts(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(parts, tree)


def _spread(function: Callable, mesh: Mesh, in_specs: tuple, out_specs: Any) -> Callable:
    """`function` once per device, on its share of the seeds and of the batch."""
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def compiler_options(devices: int, model: "ModelConfig") -> dict[str, Any]:
    """Options to compile a program of a net with that runs on so many devices.

    Where a device has more processors than one, Eigen's convolutions, which share them, are faster than
    YNNPACK's: 0.8 of the step of WRN-16-4 on two. On a device that has one, YNNPACK's are. Where blocks are
    scanned, compiling in half the time makes no step slower as long as our own convolutions serve; with
    XLA's, steps of ResNet-110 took 1.28 times as long.
    """
    if jax.default_backend() != "cpu":
        return {}
    shared = WITHOUT_YNN_CONVOLUTIONS if devices < processors() else {}
    quickly = any_scanned(model) and model.dtype == "float32" and native.in_use()
    return shared | (COMPILED_QUICKLY if quickly else {})


def make_train_steps(mesh: Mesh, **bound: Any) -> Callable:
    """Compiled (state, arrays, indices [seeds, k, b]) -> (state, metrics [seeds, k]) over the mesh.

    The state has a leading axis of seeds, and is donated.
    """
    steps = partial(train_steps, axis_name=axis_name(mesh), **bound)
    seeds = PartitionSpec(SEEDS)
    specs = (seeds, PartitionSpec(), PartitionSpec(SEEDS, None, DATA))
    options = compiler_options(mesh.size, bound["model"].config)
    program = jax.jit(_spread(steps, mesh, specs, seeds), donate_argnums=0, compiler_options=options)
    return _taking_parts(program, mesh, specs[-1])


def make_eval_step(mesh: Mesh, **bound: Any) -> Callable:
    """Compiled (variables, batch) -> sums [seeds] over the mesh; the variables have a leading axis."""
    step = partial(eval_step, axis_name=axis_name(mesh), **bound)

    def each(variables: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        return each_seed(lambda own: step(own, batch))(variables)

    seeds, data = PartitionSpec(SEEDS), PartitionSpec(DATA)
    options = compiler_options(mesh.size, bound["model"].config)
    program = jax.jit(_spread(each, mesh, (seeds, data), seeds), compiler_options=options)
    return _taking_parts(program, mesh, data)


def _taking_parts(function: Callable, mesh: Mesh, spec: PartitionSpec) -> Callable:
    """`function` as it is, or, in several processes, with its last argument placed first."""
    if not several():
        return function
    return lambda *arguments: function(*arguments[:-1], _place(arguments[-1], mesh, spec))


def make_predict(**bound: Any) -> Callable:
    """Compiled (variables, images) -> logits on one device."""
    options = compiler_options(1, bound["model"].config)
    return jax.jit(partial(predict, **bound), compiler_options=options)
