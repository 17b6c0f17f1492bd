"""What a run must remember of its data to be used without it: shapes, classes, normalisation."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnet.errors import InputError
from resnet.runs.records import write_json

if TYPE_CHECKING:
    from resnet.data.datasets import Dataset

FILE = "task.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """The question the data asks of the net, and the units of question and answer."""

    kind: str
    """classification or regression."""
    image_shape: tuple[int, ...]
    """Height, width in pixels, channels."""
    class_names: tuple[str, ...]
    """Names of the classes in the order of the labels; () for regression."""
    mean: np.ndarray
    """Subtracted from the pixels, 0..255; [c], or [h, w, c] for per-pixel means."""
    std: np.ndarray
    """What the pixels are divided by afterwards, 0..255."""
    unit: str = ""
    """Unit of a regression's target after multiplication by target_scale, e.g. degrees."""
    target_scale: float = 1.0
    """Labels times this are in `unit`."""

    @property
    def num_outputs(self) -> int:
        """Logits of the net: one a class, or 1."""
        return len(self.class_names) or 1


def task_of(dataset: "Dataset") -> Task:
    """The part of a data set that a run remembers."""
    return Task(
        kind=dataset.task,
        image_shape=tuple(dataset.image_shape),
        class_names=tuple(dataset.class_names) if dataset.task == "classification" else (),
        mean=np.asarray(dataset.mean, np.float32),
        std=np.asarray(dataset.std, np.float32),
        unit=dataset.unit,
        target_scale=dataset.target_scale,
    )


def save_task(task: Task, workdir: Path) -> None:
    """Writes task.json; float32 statistics survive the decimal form exactly."""
    fields = dataclasses.asdict(task) | {"mean": task.mean.tolist(), "std": task.std.tolist()}
    write_json(workdir / FILE, fields)


def load_task(workdir: Path) -> Task:
    """Reads task.json."""
    path = workdir / FILE
    try:
        fields = json.loads(path.read_text())
        arrays = {name: np.asarray(fields[name], np.float32) for name in ("mean", "std")}
        shapes = {name: tuple(fields[name]) for name in ("image_shape", "class_names")}
        return Task(**(fields | arrays | shapes))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {workdir} holds no run of ours") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is unreadable: {error}") from None
