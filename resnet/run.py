"""A run read back from its folder: its config, its net, its weights, and what they say."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from resnet.config import Config
from resnet.data.augment import normalize
from resnet.data.datasets import SPLITS, DataConfig, given_statistics, load_split
from resnet.data.splits import Split
from resnet.errors import InputError, check_choice
from resnet.files import local_path
from resnet.models.geometry import block_specs
from resnet.models.resnet import ResNet, make_model
from resnet.models.scanning import stack_blocks
from resnet.runs.checkpoints.restore import load_variables
from resnet.runs.task import Task, listed, tell_of_other_images
from resnet.runtime.devices import DATA, make_mesh, replicate
from resnet.training.evaluation import as_numbers, evaluate, make_evaluate, make_predict


@dataclasses.dataclass(frozen=True, eq=False)
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

    def __getstate__(self) -> dict[str, Any]:
        # Compiled programs cannot be pickled; they are made again when they are needed.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _predict(self):
        return make_predict(model=self.model, task=self.task)

    @functools.cached_property
    def _features(self):
        def features(variables, images):
            images = normalize(images, self.task.mean, self.task.std)
            return self.model.apply(variables, images, train=False)[1]

        return jax.jit(features)

    def logits(self, images: np.ndarray) -> Float[np.ndarray, "n outputs"]:
        """Logits of raw images, uint8 [n, h, w, c], which are normalised as in training."""
        return np.asarray(self._predict(self.variables, self._checked(images)))

    def features(self, images: np.ndarray) -> dict[str, Float[np.ndarray, "n ..."]]:
        """Outputs for raw images of `stem`, of each `stageS/blockB`, and `pooled`, in the net's order."""
        found = jax.device_get(self._features(self.variables, self._checked(images)))
        blocks = (f"stage{spec.stage}/block{spec.block}" for spec in block_specs(self.config.model))
        return {name: found[name] for name in ("stem", *blocks, "pooled")}

    def _checked(self, images: np.ndarray) -> np.ndarray:
        """The images; InputError unless they are of the run's shape and raw."""
        images = np.asarray(images)
        shape = self.task.image_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
            raise InputError(
                f"images must be uint8 of shape (n, {', '.join(map(str, shape))}); "
                f"got {images.dtype} of shape {images.shape}"
            )
        return images


def load(workdir: str | Path, step: int | None = None) -> Run:
    """The run in `workdir` at `step`, or at its latest checkpoint that can be read."""
    config, task, variables, step = load_variables(workdir, step)
    return Run(config, task, make_model(config.model, task.num_outputs), variables, step, local_path(workdir))


def evaluate_run(run: Run, split: str = "test", data: DataConfig | None = None) -> dict[str, Any]:
    """Metrics of a run's weights on a split of its own data, or of `data`; no other split is needed.

    The images are normalised as in training, unless `data` gives a mean or std of its own.
    """
    data = data or run.config.data
    images, skipped = load_run_split(run, split, data)
    given = given_statistics(data, run.task.image_shape[-1])
    mesh = make_mesh()
    # Rounded up to whole shares: what is padded does not count.
    batch_size = -(-run.config.train.batch_size // mesh.shape[DATA]) * mesh.shape[DATA]
    metrics = evaluate(
        replicate(stack_blocks(run.config.model, jax.device_get(run.variables)), mesh),
        images,
        program=make_evaluate(mesh, model=run.model, task=dataclasses.replace(run.task, **given)),
        batch_size=batch_size,
    )
    noted = {"skipped_images": len(skipped)} if skipped else {}
    return {"split": split, **as_numbers(metrics), "step": run.step} | noted


def load_run_split(run: Run, split: str, data: DataConfig) -> tuple[Split, tuple[str, ...]]:
    """A split of `data` as a question to the run's net, and which of its images were skipped.

    Labels are the run's own: classes are the same where their names are. InputError unless the data are
    of the same kind, shape and classes; other images are worth a line in the log.
    """
    check_choice("split", split, SPLITS)
    images, source = load_split(data, split, run.task.held_out_by)
    if not len(images):
        raise InputError(f"data set {data.name!r} has no images in its {split} split")
    kind = "classification" if source.class_names else "regression"
    shape = images.images.shape[1:]
    for field, ours, theirs, remedy in (
        ("kind", run.task.kind, kind, "evaluate on data of that kind"),
        ("image_shape", run.task.image_shape, shape, "set `data.image_size` to the first of these"),
    ):
        if ours != theirs:
            raise InputError(f"the run was trained with {field} {ours}, this data has {theirs}; {remedy}")
    names = source.class_names, run.task.class_names
    part = "train" if split == "validation" and source.validation is None else split
    tell_of_other_images(run.task, part, with_labels_of(getattr(source, part), *names).fingerprint)
    return with_labels_of(images, *names), source.skipped


def with_labels_of(split: Split, given: Sequence[str], trained: Sequence[str]) -> Split:
    """The split with each class at its place among the `trained`; InputError unless all are the same."""
    if tuple(given) == tuple(trained):
        return split
    if set(given) != set(trained):
        raise InputError(
            f"the run knows the classes {listed(trained)}, this data has {listed(given)}: evaluate on data "
            "whose classes have the same names"
        )
    places = np.array([trained.index(name) for name in given], np.int32)
    return dataclasses.replace(split, labels=places[split.labels])
