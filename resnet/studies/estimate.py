"""Estimates time and memory of a study before it starts: measures its smallest net, scales to the others."""

import contextlib
import dataclasses
import math

from absl import logging

from resnet.config import Config
from resnet.data.datasets import Dataset, load_dataset
from resnet.durations import parse_duration
from resnet.errors import InputError
from resnet.models.counts import count_parts
from resnet.runs.dry_run import try_step
from resnet.runtime.devices import make_mesh
from resnet.studies.folder import StudyFolder
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
    """What an estimate takes from a data set."""

    images: int
    """Of the training split."""
    image_shape: tuple[int, int, int]
    num_outputs: int


def estimate(folder: StudyFolder, names: list[str]) -> list[RunEstimate]:
    """Scales what is measured on one arm: time by multiply-accumulates, memory by activations.

    That arm has the fewest multiply-accumulates of those whose data are at hand. Each data set is read once.
    """
    known: dict[str, _Sizes | None] = {}
    per_mac = per_element = 0.0
    rows = {}
    for name in sorted(names, key=lambda name: folder.arms[name].macs):
        arm, config = folder.arms[name], folder.arms[name].config
        data, batch = repr(config.data), config.train.batch_size
        if data not in known and (dataset := _load(name, config)):
            known[data] = sizes = _Sizes(len(dataset.train), dataset.image_shape, dataset.num_outputs)
            if not per_mac:
                seconds_per_step, measured_bytes = _measure(config, dataset)
                per_mac = seconds_per_step / (arm.macs * batch)
                per_element = measured_bytes / _elements(config, sizes)
        sizes = known.setdefault(data, None)
        if sizes is None:
            rows[name] = _row(folder, name, None, None)
            continue
        duration = parse_duration("train.duration", config.train.duration)
        steps = duration.steps(batch_size=batch, steps_per_epoch=max(sizes.images // batch, 1))
        seconds = per_mac * arm.macs * batch * steps
        rows[name] = _row(folder, name, seconds, per_element * _elements(config, sizes))
    return [rows[name] for name in names]


def _load(name: str, config: Config) -> Dataset | None:
    """The data set of an arm; None, with a warning, where it is not at hand."""
    try:
        return load_dataset(config.data)
    except InputError as error:
        logging.warning("arm %s: no time or memory is estimated: %s", name, error)
        return None


def _row(folder: StudyFolder, name: str, seconds: float | None, size: float | None) -> RunEstimate:
    arm = folder.arms[name]
    left = folder.expected(name) - sum(run.over for run in folder.all_runs(name))
    return RunEstimate(name, left, arm.parameters, arm.macs, seconds, size)


def _measure(config: Config, dataset: Dataset) -> tuple[float, float]:
    """(seconds of a step, bytes that the compiled step needs) on this machine's first device."""
    with contextlib.closing(make_trainer(config, dataset, make_mesh(1))) as trainer:
        found = try_step(trainer)
    return found.seconds, found.bytes


def _elements(config: Config, data: _Sizes) -> float:
    """Numbers that leave stem and blocks for a batch, and parameters three times: what memory grows with."""
    parts = count_parts(config.model, data.num_outputs, data.image_shape)
    features = sum(math.prod(part.shape) for part in parts)
    return features * config.train.batch_size + 3 * sum(part.parameters for part in parts)
