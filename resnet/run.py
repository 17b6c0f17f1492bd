"""A run read back from its folder: its config, its net, its weights, and what they say."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float

from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.datasets import SPLITS, load_split
from resnet.data.files.decoders import PILLOW
from resnet.data.files.delivery import Pace
from resnet.data.splits import Examples, without_images
from resnet.data.statistics import given_statistics
from resnet.errors import InputError, check_choice
from resnet.files import local_path
from resnet.models.folding import fold
from resnet.models.resnet import ResNet, make_model
from resnet.models.scanning import stack_blocks
from resnet.net import Net
from resnet.runs.checkpoints.restore import load_variables
from resnet.runs.task import Task, listed, tell_of_other_images
from resnet.runtime.devices import DATA, make_mesh, replicate
from resnet.training.evaluation import BY_CLASS, as_numbers, evaluate, images_at_once, make_evaluate


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A net with the weights of one step of a run."""

    config: Config
    task: Task
    """Image shape, class names and normalisation of the data it was trained on."""
    model: ResNet
    variables: dict[str, Any]
    """{"params", "batch_stats"} for model.apply; the moving average if the run kept one."""
    step: int
    workdir: Path

    def __repr__(self) -> str:
        return f"<Run of {self.workdir}, step {self.step}: {self.net!r}>"

    def __getstate__(self) -> dict[str, Any]:
        # Without the net, whose compiled programs cannot be pickled; it is made again when it is needed.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def net(self) -> Net:
        """The net alone, without its history; it reads and judges pictures as the run evaluates them."""
        data = self.config.data
        return Net(
            self.model,
            self.variables,
            self.task,
            data.eval_crop,
            data.eval_size,
            data.eval_flip,
            # Images that are not resized are decoded by Pillow.
            data.decoder if data.image_size else PILLOW,
        )

    def folded(self) -> "Run":
        """The same function without shortcut and norms; InputError for nets that do not fold (folding.py)."""
        model, variables = fold(self.config.model, jax.device_get(self.variables))
        config = dataclasses.replace(self.config, model=model)
        net = make_model(model, self.task.num_outputs)
        return dataclasses.replace(self, config=config, model=net, variables=variables)

    def logits(self, images: Any) -> Float[np.ndarray, "*n outputs"]:
        """Logits of images, uint8 from 0 to 255 or float from 0 to 1, [n, h, w, c] or one [h, w, c].

        They are those of the run's evaluation: with `data.eval_flip`, the mean over both sides.
        """
        return self.net.logits(images)

    def features(self, images: Any) -> dict[str, Float[np.ndarray, "..."]]:
        """Outputs for images of `stem`, of each `stageS/blockB`, and `pooled`, in the net's order."""
        return self.net.features(images)


def load(workdir: str | Path, step: int | None = None) -> Run:
    """The run in `workdir` at `step`, or at its latest checkpoint that can be read."""
    config, task, variables, step = load_variables(workdir, step)
    return Run(config, task, make_model(config.model, task.num_outputs), variables, step, local_path(workdir))


def evaluate_run(
    run: Run,
    split: str = "test",
    data: DataConfig | None = None,
    pace: Pace | None = None,
    by_class: bool = False,
) -> dict[str, Any]:
    """Metrics of a run's weights on a split of its own data, or of `data`; no other split is needed.

    The images are normalised as in training, unless `data` gives a mean or std of its own. `pace` is that of
    a stream. With `by_class`, the accuracy of each class that has images, too; InputError in a regression.
    """
    if by_class and run.task.kind == "regression":
        raise InputError("`by_class` is for classes, and this run's labels are real values; leave it out")
    data = data or run.config.data
    images, skipped = load_run_split(run, split, data)
    found = make_evaluator(run, data, pace, by_class)(images)
    noted = {"skipped_images": len(skipped)} if skipped else {}  # known of a stream once it was read
    return {"split": split, **found, "step": run.step} | noted


def make_evaluator(
    run: Run, data: DataConfig, pace: Pace | None, by_class: bool = False
) -> Callable[[Examples], dict[str, Any]]:
    """A function that gives the metrics of a run's weights on images with its labels, see evaluate_run."""
    mesh, task = make_mesh(), normalized_as(run, data)
    program = make_evaluate(mesh, model=run.model, task=task, flip=data.eval_flip, by_class=by_class)
    variables = replicate(stack_blocks(run.config.model, jax.device_get(run.variables)), mesh)
    batch_size = images_at_once(run.config.train, mesh.shape[DATA])

    def metrics(images: Examples) -> dict[str, Any]:
        found = evaluate(variables, images, program=program, batch_size=batch_size, pace=pace)
        if not by_class:
            return as_numbers(found)
        counts = zip(task.class_names, *(found.pop(name) for name in BY_CLASS), strict=True)
        classes = {name: {"top1": float(right / n), "n": int(n)} for name, right, n in counts if n}
        return as_numbers(found) | {"by_class": classes}

    return metrics


def normalized_as(run: Run, data: DataConfig) -> Task:
    """The run's task, with the mean and std that `data` gives in place of its own.

    InputError for another `data.normalization` without them: the net was trained with the run's.
    """
    if data.normalization != run.config.data.normalization and not (data.mean and data.std):
        raise InputError(
            f"`data.normalization` is {run.config.data.normalization} in this run, whose mean and std count; "
            f"got {data.normalization!r}. Others are given by `data.mean` and `data.std`"
        )
    given = given_statistics(data.mean, data.std, run.task.image_shape[-1])
    return dataclasses.replace(run.task, **given)


def load_run_split(run: Run, split: str, data: DataConfig) -> tuple[Examples, Sequence[str]]:
    """A split of `data` as a question to the run's net, and which of its images were skipped.

    Labels are the run's own: classes are the same where their names are. InputError unless the data are
    of the same kind and shape, and have classes that the run knows; other images, or fewer classes, are worth
    a line in the log.
    """
    check_choice("split", split, SPLITS)
    images, source = load_split(data, split, run.task.held_out_by)
    if not len(images):
        raise without_images(data.name, split)
    kind = "classification" if source.class_names else "regression"
    shape = images.image_shape
    fit = "set `data.image_size` to the first of these"
    if run.task.image_shape[-1] != shape[-1]:
        fit = "evaluate on data with as many channels; image files are read as RGB, but for `resnet predict`"
    for field, ours, theirs, remedy in (
        ("kind", run.task.kind, kind, "evaluate on data of that kind"),
        ("image_shape", run.task.image_shape, shape, fit),
    ):
        if ours != theirs:
            raise InputError(f"the run was trained with {field} {ours}, this data has {theirs}; {remedy}")
    names = source.class_names, run.task.class_names
    if 0 < len(names[0]) < len(names[1]):
        logging.info("These data have %d of the %d classes that the net chooses from", *map(len, names))
    part = "train" if split == "validation" and source.validation is None else split
    known = tell_of_other_images(run.task, part, with_labels_of(getattr(source, part), *names).fingerprint)
    if known and part == "train":
        _check_held_out(run, split, data, source.validation is not None)
    return with_labels_of(images, *names), source.skipped


def _check_held_out(run: Run, split: str, data: DataConfig, own: bool) -> None:
    """Compares what is held out of the training images for validation with what the run held out.

    `own` is whether the data have validation images of their own, and hold out none. InputError, or a line in
    the log, where the images of the split are others than the run's.
    """
    known, had = bool(run.task.fingerprint), "validation" in run.task.fingerprint
    then, now = (0 if had else run.config.data.validation), (0 if own else data.validation)
    seeds = run.config.data.split_seed, data.split_seed
    if (then, then and seeds[0]) == (now, now and seeds[1]) or (own and not known):
        return
    if had:
        remedy = "set `data.validation` to 0" if split == "train" else "evaluate on test"
        raise InputError(
            "the run was trained on all images of which this data's validation images are a part, as it had "
            f"a validation split of its own; give the data that split, or {remedy}"
        )
    if own:
        raise InputError(
            "the run held out a part of these training images for validation, and this data has a validation "
            "split of its own; take that split away, or evaluate on test"
        )
    logging.warning(
        "The run was trained on some of these %s images%s: `data.validation` and `data.split_seed` were "
        "%s and %s, and are %s and %s",
        *(("training", " only") if split == "train" else ("validation", "")),
        *(then, seeds[0], now, seeds[1]),
    )


def with_labels_of(split: Examples, given: Sequence[str], trained: Sequence[str]) -> Examples:
    """The split with each class at its place among the `trained`; InputError for one that is not there."""
    if tuple(given) == tuple(trained):
        return split
    if unknown := [name for name in given if name not in set(trained)]:
        raise InputError(
            f"the run knows the classes {listed(trained)}, this data has {listed(given)}: rename "
            f"{unknown[0]!r} as the run has it, or leave it out by `data.classes`"
        )
    places = np.array([trained.index(name) for name in given], np.int32)
    return dataclasses.replace(split, labels=places[split.labels])
