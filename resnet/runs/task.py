"""What a run remembers of its data, to use the net without them and to notice when they have changed."""

import dataclasses
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.files.layout import places_of_splits
from resnet.data.splits import NAME, PLACE, Dataset
from resnet.errors import InputError, first_of
from resnet.files import local_path
from resnet.runs.checkpoints.checkpoint import steps_on_disk
from resnet.runs.metrics.records import write_json

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
    fingerprint: dict[str, str] = dataclasses.field(default_factory=dict)
    """By split, what tells its images from others; empty where that was not noted."""
    held_out_by: str = PLACE
    """How the validation split was drawn: by the names of files, or by place, as in earlier releases."""

    @property
    def num_outputs(self) -> int:
        """Logits of the net: one a class, or 1."""
        return len(self.class_names) or 1


def task_of(dataset: Dataset) -> Task:
    """The part of a data set that a run remembers."""
    return Task(
        kind=dataset.task,
        image_shape=tuple(dataset.image_shape),
        class_names=tuple(dataset.class_names) if dataset.task == "classification" else (),
        mean=np.asarray(dataset.mean, np.float32),
        std=np.asarray(dataset.std, np.float32),
        unit=dataset.unit,
        target_scale=dataset.target_scale,
        fingerprint=dataset.fingerprint,
        held_out_by=dataset.held_out_by,
    )


def load_run_data(config: DataConfig, workdirs: Iterable[Path], test_images: Collection[str] = ()) -> Dataset:
    """The data set of runs that are trained together.

    It is split and normalised as it was when the runs began. InputError, before anything is written, if a
    run began with other classes, statistics or images, or if the test images have none of the fingerprints
    `test_images`, those of runs to compare with.
    """
    begun = {workdir: load_task(workdir) for workdir in workdirs if (workdir / FILE).exists()}
    by_place = any(task.held_out_by == PLACE for task in begun.values())
    dataset = load_dataset(config, PLACE if by_place else NAME)
    for workdir, task in begun.items():
        if differing := _differing(task, task_of(dataset)):
            raise InputError(
                f"{workdir} holds a run that began with other data; {'; '.join(differing)}. Put the data "
                "back as they were, or choose another workdir"
            )
        # Equal, but for the last digits that another version may sum up otherwise.
        dataset = dataclasses.replace(dataset, mean=task.mean, std=task.std)
    now = dataset.fingerprint.get("test", "none")
    if test_images and now not in test_images:
        raise InputError(
            f"the test images are not those of the study's other runs: {', '.join(sorted(test_images))} "
            f"there, {now} here. Name the folder of the same images, or choose another workdir"
        )
    return dataset


def check_apart_from_images(config: DataConfig, workdir: Path) -> None:
    """Raises InputError if a run would lie among the class folders of its images.

    A run in a hidden folder does not, as no class is hidden.
    """
    root, run = local_path(config.dir), workdir.resolve()
    places = places_of_splits(root) if config.name == "image_folder" and root.is_dir() else {}
    for place in map(Path.resolve, places.values()):
        inside = run.relative_to(place).parts if run.is_relative_to(place) else (".",)
        if not inside or not inside[0].startswith("."):
            raise InputError(
                f"workdir {workdir} lies among the class folders of `data.dir` {root}: choose one elsewhere"
            )


def knows_its_data(workdir: Path) -> bool:
    """Whether a run has fingerprints of its data, and so notices if they have changed, or has seen none yet.

    One that was imported with the names of its classes alone has seen none.
    """
    known = (workdir / FILE).exists()
    return known and (bool(load_task(workdir).fingerprint) or not any(steps_on_disk(workdir)))


def tell_of_other_images(task: Task, split: str, now: str) -> bool:
    """Whether a split of fingerprint `now` is that which a run began with; if not, the log says so."""
    then = task.fingerprint.get(split, "none") if task.fingerprint else now
    if then != now:
        logging.warning(
            "The %s images are not those that the run began with: %s then, %s now", split, then, now
        )
    return then == now


def _differing(begun: Task, now: Task) -> list[str]:
    """What of the data is not as it was when a run began."""
    found = []
    if begun.class_names != now.class_names:
        found.append(f"classes: {listed(begun.class_names)} then, {listed(now.class_names)} now")
    for field in ("kind", "image_shape"):
        then, here = getattr(begun, field), getattr(now, field)
        if then != here:
            found.append(f"{field}: {then} then, {here} now")
    splits = begun.fingerprint.keys() | now.fingerprint.keys() if begun.fingerprint else ()
    for split in sorted(splits):
        then, here = (task.fingerprint.get(split, "none") for task in (begun, now))
        if then != here:
            found.append(f"{split}: {then} then, {here} now")
    for field in ("mean", "std"):
        then, here = getattr(begun, field), getattr(now, field)
        if then.shape != here.shape:
            found.append(f"{field}: of shape {then.shape} then, {here.shape} now")
        elif (apart := ~np.isclose(then, here, rtol=1e-5, atol=1e-3)).any():
            then, here = (listed([f"{number:.4f}" for number in numbers[apart]]) for numbers in (then, here))
            found.append(f"{field}: {then} then, {here} now")
    return found


def listed(names: Sequence[str]) -> str:
    """The first names, or numbers, in a message, in brackets."""
    return f"({first_of(names, 20)})"


def begin_task(task: Task, workdir: Path) -> None:
    """Writes task.json where there is none; a run keeps the one that it began with.

    The first data that an imported run sees are those it began with.
    """
    if not (workdir / FILE).exists():
        save_task(task, workdir)
    elif knows_its_data(workdir) and not (begun := load_task(workdir)).fingerprint:
        save_task(dataclasses.replace(begun, fingerprint=task.fingerprint), workdir)


def save_task(task: Task, workdir: Path) -> None:
    """Writes task.json; float32 statistics survive the decimal form exactly."""
    fields = dataclasses.asdict(task) | {"mean": task.mean.tolist(), "std": task.std.tolist()}
    write_json(workdir / FILE, fields)


def load_task(workdir: Path) -> Task:
    """Reads task.json."""
    path = workdir / FILE
    try:
        fields = json.loads(path.read_bytes())
        arrays = {name: np.asarray(fields[name], np.float32) for name in ("mean", "std")}
        shapes = {name: tuple(fields[name]) for name in ("image_shape", "class_names")}
        return Task(**(fields | arrays | shapes))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {workdir} holds no run of ours") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is unreadable: {error}; bring it back or, to take the data as they are now, remove it"
        ) from None
