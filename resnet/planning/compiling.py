"""The training step of a config, compiled for devices that are not here, on shapes alone."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from resnet.config import Config
from resnet.data.batches import Delivered, FlatImages, Resident, shape_of_rows
from resnet.data.config import DataConfig
from resnet.data.files.listing import Listing
from resnet.data.files.stream import BadImages, Sizes, StreamSplit
from resnet.data.folder import GIGABYTE
from resnet.data.splits import Dataset, Split
from resnet.planning.program import Program, read_program
from resnet.planning.targets import Target
from resnet.runtime.devices import mesh_of
from resnet.training.trainer import Trainer, make_trainer

_COUNTED = ("flops", "bytes accessed", "optimal_seconds")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled training step, and what its compiler says of it; of several devices, of one."""

    trainer: Trainer
    program: Program
    memory: dict[str, int]
    """Bytes of arguments and results, shared by both, of temporaries and of the program."""
    state: int
    """Bytes of the state, which the results may take."""
    images: int
    """Bytes of the resident images."""
    counted: dict[str, float]
    """The compiler's own flops, bytes and seconds; {} where it has none."""

    @property
    def peak(self) -> int:
        """Bytes of a device's memory that the step takes."""
        kinds = self.memory
        return (
            kinds["arguments"] + kinds["results"] - kinds["shared"] + kinds["temporaries"] + kinds["program"]
        )


class TooLarge(Exception):
    """The step does not fit into the memory of the device; the text is what the compiler said of it."""


def imagined(config: DataConfig, shape: tuple[int, int, int], classes: int, count: int) -> Dataset:
    """A data set of so many training images of no values, which take no memory.

    It is streamed where a training would stream so many images.
    """
    names = tuple(map(str, range(classes))) if classes > 1 else ()
    labels = np.zeros(count, np.int32)
    if config.streams(count * math.prod(shape) / GIGABYTE):
        sizes, hashes, nothing = np.zeros(count, np.int64), np.zeros(count, np.uint64), np.zeros(0, np.int64)
        files = Listing(Path(), names, labels, sizes, nothing, np.zeros(0, np.uint8), sizes, hashes)
        cuts = Sizes(shape[0], 0.0, shape[0], 0.0)
        train = StreamSplit(files, np.arange(count), cuts, labels, BadImages(0.0))
    else:
        train = Split(np.broadcast_to(np.uint8(0), (count, *shape)), labels)
    mean, std = np.zeros(shape[-1], np.float32), np.full(shape[-1], 255, np.float32)
    return Dataset(train, train[:0], train[:0], mean, std, names, "", 1.0)


def trainer_on(config: Config, dataset: Dataset, target: Target) -> Trainer:
    """The trainer of a config on the devices of a target; it can compile, and run nothing."""
    seeds = tuple(range(config.seed, config.seed + config.train.seeds))
    return make_trainer(config, dataset, mesh_of(target.devices(), len(seeds)), seeds)


def compile_step(trainer: Trainer, side: int = 0) -> Compiled:
    """One step of a training, as its devices would run it; TooLarge if it does not fit.

    Where one call makes several steps (`train.steps_per_call`), one of them. `side` is the shorter side of
    the images, see Intervals.side.
    """
    state, batch = arguments(trainer)
    lowered = trainer.train(1, side).lower(state, batch)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLarge(_needed(str(error))) from None
    counted = compiled.cost_analysis() or {}
    return Compiled(
        trainer=trainer,
        program=read_program(compiled.as_text()),
        memory=_memory(compiled.memory_analysis()),
        state=_bytes_of_a_device(state),
        images=_bytes_of_a_device(batch.arrays["image"]) if isinstance(batch, Resident) else 0,
        counted={name: float(counted[name]) for name in _COUNTED if name in counted},
    )


def arguments(trainer: Trainer) -> tuple[Any, Any]:
    """Shapes of the state and of a batch, as they lie on the devices."""

    def laid(shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(trainer.mesh, spec))

    state = trainer.layout.together
    train, own = trainer.dataset.train, trainer.spec_of_batch().own
    rows = (trainer.config.train.batch_size,)
    rows = (len(trainer.seeds), *rows) if len(trainer.seeds) > 1 else rows
    if isinstance(train, StreamSplit):
        images = laid((*rows, *train.image_shape), jnp.uint8, own)
        numbers = {name: laid(rows, jnp.int32, own) for name in ("label", "place")}
        return state, Delivered({"image": images, **numbers})
    whole = PartitionSpec()
    pixels = laid(shape_of_rows((len(train), *train.image_shape)), train.images.dtype, whole)
    labels = laid((len(train),), train.labels.dtype, whole)
    arrays = {"image": FlatImages(pixels, train.image_shape), "label": labels}
    return state, Resident(arrays, laid(rows, jnp.int32, own))


def _bytes_of_a_device(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _memory(stats: Any) -> dict[str, int]:
    """A compiler's statistics of memory, under our names."""
    return {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes,
        "shared": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }


def _needed(error: str) -> str:
    """What a compiler says of too little memory."""
    found = re.search(r"[Uu]sed \S+ of \S+ hbm|[Tt]otal memory required[^.]*\S+", error)
    return found[0] if found else " ".join(error.split())[:200]
