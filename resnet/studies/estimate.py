"""Estimates time and memory of a study before it starts: measures its smallest net, scales to the others."""

import contextlib
import dataclasses
import math

from absl import logging

from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.datasets import Dataset, load_dataset
from resnet.data.images import shrunk_shape
from resnet.errors import InputError
from resnet.models.counts import count_parts
from resnet.runs.dry_run import try_step
from resnet.runtime.devices import make_mesh
from resnet.studies.folder import StudyFolder
from resnet.studies.study import ResolvedArm
from resnet.training.schedules import make_intervals
from resnet.training.trainer import make_trainer


@dataclasses.dataclass(frozen=True)
class RunEstimate:
    """What one run of an arm will take on this machine; compilation not included."""

    arm: str
    runs_left: int
    parameters: int
    macs: int
    seconds: float | None
    """None where the data are not at hand."""
    bytes: float | None


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """The sizes of a data set: its training images, their shape, and the outputs of a net for it."""

    images: int
    image_shape: tuple[int, int, int]
    num_outputs: int


def estimate(folder: StudyFolder, names: list[str]) -> list[RunEstimate]:
    """Estimates the time and memory that a run of each arm takes, by measuring one of the arms.

    Time grows with multiply-accumulates, memory with activations. Of the arms with data at hand,
    the one with the fewest multiply-accumulates is measured. Each data set is read once.
    """
    known: dict[DataConfig, _Sizes | None] = {}
    measured: tuple[float, float] | None = None
    rows = {}
    for name in sorted(names, key=lambda name: folder.arms[name].macs):
        arm, config = folder.arms[name], folder.arms[name].config
        if config.data not in known:
            dataset = _load(name, config)
            known[config.data] = dataset and _sizes(dataset)
            if dataset and not measured:
                seconds, size = _measure(config, dataset)
                measured = seconds / _macs(arm), size / _elements(config, _sizes(dataset))
        sizes = known[config.data]
        if measured and sizes:
            per_mac, per_element = measured
            seconds = per_mac * _macs(arm) * _steps(config, sizes)
            rows[name] = _row(folder, name, seconds, per_element * _elements(config, sizes))
        else:
            rows[name] = _row(folder, name, None, None)
    return [rows[name] for name in names]


def _load(name: str, config: Config) -> Dataset | None:
    """The data set of an arm; None, with a warning, where it is not at hand."""
    try:
        return load_dataset(config.data)
    except InputError as error:
        logging.warning("arm %s: no time or memory is estimated: %s", name, error)
        return None


def _sizes(dataset: Dataset) -> _Sizes:
    return _Sizes(len(dataset.train), dataset.image_shape, dataset.num_outputs)


def _macs(arm: ResolvedArm) -> int:
    """Multiply-accumulates of a batch."""
    return arm.macs * arm.config.train.batch_size


def _steps(config: Config, sizes: _Sizes) -> float:
    """The number of steps of a run; one on smaller images counts as the share of the pixels that it sees."""
    per_epoch = max(sizes.images // config.train.batch_size, 1)
    counts = make_intervals(config.train, config.checkpoint.every, per_epoch).steps_by_side()
    pixels = {side: math.prod(shrunk_shape(sizes.image_shape, side)[:2]) for side in counts if side}
    whole = math.prod(sizes.image_shape[:2])
    return sum(steps * pixels.get(side, whole) / whole for side, steps in counts.items())


def _row(folder: StudyFolder, name: str, seconds: float | None, size: float | None) -> RunEstimate:
    arm = folder.arms[name]
    left = folder.expected(name) - sum(run.over for run in folder.all_runs(name))
    return RunEstimate(name, left, arm.parameters, arm.macs, seconds, size)


def _measure(config: Config, dataset: Dataset) -> tuple[float, float]:
    """(seconds of a step, bytes that the compiled step needs) on this machine's first device."""
    with contextlib.closing(make_trainer(config, dataset, make_mesh(1))) as trainer:
        found = try_step(trainer)
    return found.seconds, found.bytes


def _elements(config: Config, sizes: _Sizes) -> float:
    """Numbers that leave stem and blocks for a batch, and parameters three times: what memory grows with."""
    parts = count_parts(config.model, sizes.num_outputs, sizes.image_shape)
    features = sum(math.prod(part.shape) for part in parts)
    return features * config.train.batch_size + 3 * sum(part.parameters for part in parts)
