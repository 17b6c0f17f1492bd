"""A run read back from its folder: its config, its net, its weights, and what they say."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from resnet.config import Config
from resnet.data.augment import normalize
from resnet.data.datasets import DataConfig, load_dataset
from resnet.errors import InputError, check_choice
from resnet.files import local_path
from resnet.models.geometry import block_specs
from resnet.models.resnet import ResNet, make_model
from resnet.runs.restore import load_variables
from resnet.runs.task import Task, task_of
from resnet.training.evaluation import evaluate
from resnet.training.parallel import DATA, make_eval_step, make_mesh, make_predict, stack

SPLITS = ("train", "validation", "test")


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
    """Metrics of a run's weights on a split of its own data, or of `data`.

    The images are normalised as in training, unless `data` gives a mean and std of its own.
    """
    check_choice("split", split, SPLITS)
    data = data or run.config.data
    dataset = load_dataset(data)
    task = _check_same_question(run.task, task_of(dataset))
    if (data.mean, data.std) != (run.config.data.mean, run.config.data.std):
        task = dataclasses.replace(task, mean=task_of(dataset).mean, std=task_of(dataset).std)
    mesh = make_mesh()
    # Rounded up to whole shares: what is padded does not count.
    batch_size = -(-run.config.train.batch_size // mesh.shape[DATA]) * mesh.shape[DATA]
    metrics = evaluate(
        stack([run.variables], mesh, run.config.model),
        getattr(dataset, split),
        eval_step=make_eval_step(mesh, model=run.model, task=task, config=run.config),
        batch_size=batch_size,
    )
    if not metrics:
        raise InputError(f"data set {data.name!r} has no images in its {split} split")
    skipped = {"skipped_images": len(dataset.skipped)} if dataset.skipped else {}
    return {"split": split, **metrics[0], "step": run.step} | skipped


def _check_same_question(trained: Task, given: Task) -> Task:
    """The task of the run; InputError unless the other data can be put to the same net."""
    for field, remedy in (
        ("kind", "evaluate on data of that kind"),
        ("num_outputs", "evaluate on data with those classes"),
        ("image_shape", "set `data.image_size` to the first of these"),
    ):
        ours, theirs = getattr(trained, field), getattr(given, field)
        if ours != theirs:
            raise InputError(f"the run was trained with {field} {ours}, this data has {theirs}; {remedy}")
    return trained
