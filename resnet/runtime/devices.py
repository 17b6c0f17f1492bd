"""The devices of this process: how many the CPU counts as, a mesh over them, and where arrays lie on it."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet.data.files.delivery import Pace
from resnet.errors import InputError, check_at_least
from resnet.fields import Fields
from resnet.kernels import native
from resnet.kernels.backend import by_xla_alone
from resnet.processors import processors
from resnet.runtime.processes import several

SEEDS, DATA = "seeds", "data"
# What XLA leaves to YNNPACK by default, but for convolutions: it runs each of them on one thread.
WITHOUT_YNN_CONVOLUTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}
# XLA's older way to make kernels, which JAX 0.11 has no more, and LLVM's first level: a scanned net has many
# kernels, few of them slow.
OLDER_EMITTERS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
COMPILED_QUICKLY = OLDER_EMITTERS | {"xla_backend_optimization_level": 1}


@dataclasses.dataclass(unsafe_hash=True)
class ParallelConfig(Fields, section="parallel"):
    """How the processors are used: decides the speed, and of the numbers only the rounding.

    Two exceptions are in docs/reproducibility.md: accumulation with batch norm, and draws inside the net.
    """

    host_devices: int = 0
    """Devices that the CPU counts as, each with a share of the seeds or images; 0 = chosen by seeds."""
    native: bool = True
    """Use our own kernels in place of XLA's on the CPU; the first use compiles them."""
    decoder_threads: int = 0
    """Threads that read and decode a stream's images; 0 = one for each processor."""
    shard_parameters: int = 0
    """Elements from which on a parameter, and what the optimiser keeps for it, is divided over the devices
    that share a batch; 0: each device holds all."""
    batches_ahead: int = 2
    """Batches of a stream that are made while one is used; each takes memory."""
    keep_memory: bool = True
    """Whether memory that is freed stays with the process, for the next step, where glibc serves it."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_at_least("parallel.host_devices", self.host_devices, 0)
        check_at_least("parallel.decoder_threads", self.decoder_threads, 0)
        check_at_least("parallel.batches_ahead", self.batches_ahead, 1)
        check_at_least("parallel.shard_parameters", self.shard_parameters, 0)

    def pace(self, rows: Sequence[int] | None = None) -> Pace:
        """How a stream is delivered to this process, which needs the `rows` of each batch; None: all."""
        return Pace(self.decoder_threads or processors(), self.batches_ahead, rows)


def host_devices(config: ParallelConfig, seeds: int) -> int:
    """The number of devices that the CPU is divided into.

    By default it is the largest number that divides the seeds evenly, and at most one for each processor.
    Sharing the images of one seed was faster for no net measured, and changes the rounding of its statistics.
    """
    return config.host_devices or most_sharing(seeds, processors())


def most_sharing(seeds: int, devices: int) -> int:
    """The largest number of devices, at most `devices`, that divides the seeds evenly."""
    return max(n for n in range(1, devices + 1) if seeds % n == 0)


def make_mesh(devices: int | None = None, seeds: int = 1) -> Mesh:
    """A mesh [seeds, data] of the first `devices`, or of all; it spans all processes."""
    return mesh_of(jax.devices()[:devices], seeds)


def mesh_of(devices: Sequence[Any], seeds: int = 1) -> Mesh:
    """A mesh [seeds, data] of these devices.

    Devices share the seeds evenly if they can, because seeds need no communication. The devices that are left
    share the images of each batch. With devices of several processes, each process has all seeds, and so can
    save them.
    """
    found = np.asarray(devices)
    processes = {device.process_index for device in devices}
    groups = 1 if len(processes) > 1 else math.gcd(seeds, len(found))
    return Mesh(found.reshape(groups, -1), (SEEDS, DATA))


def devices_for(left: int, seeds: int, devices: int) -> int | None:
    """How many of the devices serve the seeds that are left, so that each batch is shared as by all seeds.

    None, for all devices, where no number does that.
    """
    shares = devices // math.gcd(seeds, devices)
    return next((n for n in range(devices, 0, -1) if n // math.gcd(left, n) == shares), None)


def platform(mesh: Mesh) -> str:
    """What its devices are: cpu, gpu, tpu."""
    return mesh.devices.flat[0].platform


def data_axis(mesh: Mesh) -> str | None:
    """The mesh axis that each batch is shared over; None if each batch is on one device."""
    return DATA if mesh.shape[DATA] > 1 else None


def check_batch(batch_size: int, ghost_batch: int, devices: int, parts: int = 1, pairs: bool = False) -> None:
    """Raises InputError unless each device gets equally many images in each of its `parts`.

    A part is a whole number of ghost batches and, if `pairs`, of pairs.
    """
    if batch_size % devices:
        raise InputError(f"`train.batch_size` must be divisible by the {devices} devices; got {batch_size}")
    own = batch_size // devices
    images = f"the {own} images of each of the {devices} devices (`train.batch_size` = {batch_size})"
    if own % parts:
        raise InputError(f"`train.accumulate` must divide {images}; got {parts}")
    if pairs and own // parts % 2:
        raise InputError(
            f"`train.mixup` and `train.cutmix` need pairs: {images}, in {parts} part(s) each, must be even"
        )
    if ghost_batch and own // parts % ghost_batch:
        parted = f", in {parts} parts each" * (parts > 1)
        raise InputError(f"`model.ghost_batch` must divide {images}{parted}; got {ghost_batch}")


def place(tree: Any, mesh: Mesh, spec: Any) -> Any:
    """The tree placed over the mesh, by a spec for all of it or one for each array.

    Every process holds the whole tree and places its devices' part.
    """
    layout = shardings(spec, mesh)
    if not several():
        return jax.device_put(tree, layout)

    def parts(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    if isinstance(layout, NamedSharding):
        return jax.tree.map(lambda leaf: parts(leaf, layout), tree)
    return jax.tree.map(parts, tree, layout)


def shardings(specs: Any, mesh: Mesh) -> Any:
    """The specs on a mesh."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )


def own_rows(mesh: Mesh, batch: int) -> list[int]:
    """The places of a batch, shared over the mesh, that this process's devices compute."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    shares = sharding.addressable_devices_indices_map((batch,)).values()
    return sorted({place for index in shares if index for place in range(*index[0].indices(batch))})


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The whole tree on every device."""
    return place(tree, mesh, PartitionSpec())


def replicated(shapes: Any, mesh: Mesh) -> Any:
    """The same shapes, with the sharding of `replicate`: what a restored tree should be like."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def compiled(
    function: Callable,
    mesh: Mesh,
    in_specs: tuple,
    out_specs: Any,
    *,
    quickly: bool,
    donate: tuple = (),
    as_one: bool = False,
) -> Any:
    """`function` as one program, which each device runs on its share of the arguments.

    `quickly` as in compiler_options; `donate` are the arguments whose memory the results may take. With
    `as_one`, `function` is of all devices together, and the compiler divides it.
    """
    options = compiler_options(mesh, quickly=quickly and not as_one)  # that has XLA's convolutions
    if as_one:
        # The compiler cannot divide what is native.
        whole = by_xla_alone()(function) if platform(mesh) == "cpu" else function
        results = shardings(out_specs, mesh)
        return jax.jit(whole, donate_argnums=donate, compiler_options=options, out_shardings=results)
    if mesh.size > 1:
        function = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return jax.jit(function, donate_argnums=donate, compiler_options=options)


def placing_last(program: Callable, mesh: Mesh, spec: PartitionSpec) -> Callable:
    """`program`, whose last argument comes from the host and, with several processes, is placed first."""
    if not several():
        return program
    return lambda *arguments: program(*arguments[:-1], place(arguments[-1], mesh, spec))


def compiler_options(mesh: Mesh, *, quickly: bool = False) -> dict[str, Any]:
    """XLA's options for a program on a mesh; `quickly` compiles a scanned net in half the time.

    On a device with several processors, Eigen's convolutions are faster than YNNPACK's, because they use all
    processors: a step of WRN-16-4 on two takes 0.8 of the time. With one processor, YNNPACK's are faster.
    Compiling quickly slows no step that uses our own convolutions; with XLA's, steps of ResNet-110 took 1.28
    times as long.
    """
    if platform(mesh) != "cpu":
        return {}
    shared = WITHOUT_YNN_CONVOLUTIONS if mesh.size < processors() else {}
    return shared | (COMPILED_QUICKLY if quickly and native.in_use() else {})


def spec_of_seeds(seeds: int) -> PartitionSpec:
    """How arrays lie over the mesh whose leading axis is that of several seeds; a single seed has no axis."""
    return PartitionSpec(SEEDS) if seeds > 1 else PartitionSpec()


def each_seed(function: Callable, mesh: Mesh) -> Callable:
    """`function` for each entry of the leading axis of all its arguments, on the devices of a mesh.

    The CPU takes the entries one after the other, as caches hold what one needs; accelerators, which have
    processors to spare, all at once.
    """

    def each(*arguments: Any) -> Any:
        if len(jax.tree.leaves(arguments)[0]) == 1:  # a device's only seed needs no loop
            alone = jax.tree.map(lambda leaf: jax.numpy.squeeze(leaf, 0), arguments)
            return jax.tree.map(lambda leaf: leaf[None], function(*alone))
        if platform(mesh) == "cpu":
            return jax.lax.map(lambda entry: function(*entry), arguments)
        return jax.vmap(function)(*arguments)

    return each
