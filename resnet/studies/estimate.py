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


def estimate(folder: StudyFolder, names: list[str]) -> list[RunEstimate]:
    """Scales what is measured on one arm: time by multiply-accumulates, memory by activations."""
    least = min(names, key=lambda name: folder.arms[name].macs)
    config = folder.arms[least].config
    try:
        dataset = load_dataset(config.data)
    except InputError as error:
        logging.warning("no time or memory is estimated: %s", error)
        return [_row(folder, name, None, None) for name in names]
    seconds_per_step, measured_bytes = _measure(config, dataset)
    per_mac = seconds_per_step / (folder.arms[least].macs * config.train.batch_size)
    per_element = measured_bytes / _elements(config, dataset)
    rows = []
    for name in names:
        arm = folder.arms[name]
        batch = arm.config.train.batch_size
        per_epoch = max(len(dataset.train) // batch, 1)
        duration = parse_duration("train.duration", arm.config.train.duration)
        steps = duration.steps(batch_size=batch, steps_per_epoch=per_epoch)
        seconds = per_mac * arm.macs * batch * steps
        rows.append(_row(folder, name, seconds, per_element * _elements(arm.config, dataset)))
    return rows


def _row(folder: StudyFolder, name: str, seconds: float | None, size: float | None) -> RunEstimate:
    arm = folder.arms[name]
    left = folder.expected(name) - sum(run.over for run in folder.all_runs(name))
    return RunEstimate(name, left, arm.parameters, arm.macs, seconds, size)


def _measure(config: Config, dataset: Dataset) -> tuple[float, float]:
    """(seconds of a step, bytes that the compiled step needs) on this machine's first device."""
    with contextlib.closing(make_trainer(config, dataset, make_mesh(1))) as trainer:
        found = try_step(trainer)
    return found.seconds, found.bytes


def _elements(config: Config, dataset: Dataset) -> float:
    """Numbers that leave stem and blocks for a batch, and parameters three times: what memory grows with."""
    parts = count_parts(config.model, dataset.num_outputs, dataset.image_shape)
    features = sum(math.prod(part.shape) for part in parts)
    return features * config.train.batch_size + 3 * sum(part.parameters for part in parts)
