"""The net that is asked, and the images it is asked about."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis.sample import NOISE, Sample, describe, draw
from resnet.config import Config, given_starts, replaced
from resnet.data.augment import normalize
from resnet.data.datasets import load_dataset, shapes_of
from resnet.data.splits import Statistic, without_images
from resnet.errors import InputError, check_choice, check_within
from resnet.files import local_path
from resnet.models.chain import STATISTICS, Part, parts
from resnet.models.geometry import FAMILIES, layers_of_block, layers_outside
from resnet.models.resnet import ResNet, make_model
from resnet.models.shortcuts.table import streams_of
from resnet.paths import parameter_path
from resnet.run import SPLITS, Run, load, load_run_split
from resnet.runs.task import task_of
from resnet.training.losses import example_losses
from resnet.training.start import init_variables
from resnet.training.step import INIT, random_key

MOST_IMAGES = 100_000  # all are held at once


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A net with weights, and images with labels."""

    name: str
    config: Config
    model: ResNet
    variables: dict[str, Any]
    """{"params", "batch_stats"} for model.apply."""
    step: int | None
    """Finished training steps of a run; None for a net of a config, at its start."""
    sample: Sample
    """Where the images are from, and how many of how many."""
    images: Float[Array, "n h w c"]
    """Normalised as in training; of noise, standard normal."""
    labels: Array
    """Classes (int) or targets (float); random for noise."""
    normalized_by: tuple[Statistic, Statistic] | None
    """Mean and standard deviation of the images, in units of 0..255; None for noise."""
    moved: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where folders of images are now, by the `data.dir` of runs."""

    @property
    def data(self) -> str:
        """Where the images are from: train, validation, test, or noise."""
        return self.sample.data

    @property
    def outputs(self) -> int:
        """Logits of the net."""
        return self.model.num_outputs

    @property
    def when(self) -> str:
        """How far the net is trained, in words."""
        return "at its start" if self.step is None else f"at step {self.step}"

    @property
    def title(self) -> str:
        """For pictures: whose net it is, when, and with which shortcut."""
        return f"{self.name} {self.when}, shortcut {self.config.model.shortcut}"

    def parts(self, statistics: str = "running") -> list[Part]:
        """The net as a chain; `statistics` of batch norms: `batch` as in training, or `running`."""
        check_choice("--statistics", statistics, STATISTICS)
        return parts(self.config.model, self.outputs, self.variables, statistics)

    def losses(self, logits: Float[Array, "n outputs"]) -> Float[Array, " n"]:
        """The loss of each image, without smoothing."""
        return example_losses(logits, self.labels, output=self.config.model.output)

    def first(self, count: int) -> "Subject":
        """The same net with the first `count` images, which are again a sample of their split."""
        given, labels = self.sample, self.labels[:count]
        sample = describe(
            np.asarray(labels), of_images=given.of_images, data=given.data, seed=given.seed,
            classes=given.of_classes,
        )  # fmt: skip
        return dataclasses.replace(self, images=self.images[:count], labels=labels, sample=sample)

    def beside(self, workdir: str | Path, step: int | None = None) -> "Subject":
        """Another run, or another step of it, asked about images drawn in the same way."""
        return of_run(workdir, self.data, len(self.images), step, self.sample.seed, self.moved)

    def and_against(self, workdir: str) -> "list[Subject]":
        """This net and, where a folder is named, the run in it, named with its step where the two differ."""
        if not workdir:
            return [self]
        other = self.beside(workdir)
        told = f"{other.name}, {other.when}" if other.step != self.step else other.name
        return [self, dataclasses.replace(other, name=told)]

    def shown_images_of(self, other: "Subject") -> "Subject":
        """This net and the images of another subject, normalised as this net was trained."""
        images = other.images
        if self.normalized_by and other.normalized_by and not _same(self.normalized_by, other.normalized_by):
            mean, std = other.normalized_by
            images = normalize(np.asarray(images) * std + mean, *self.normalized_by)
        return dataclasses.replace(self, images=images, labels=other.labels, sample=other.sample)

    def restarted(self, seed: int | None = None, changes: Mapping[str, Any] | None = None) -> "Subject":
        """The same images with a new net: at its start, of another seed, with dotted fields changed."""
        config = replaced(self.config, dict(changes or {}) | ({} if seed is None else {"seed": seed}))
        model = make_model(config.model, self.outputs)
        variables = initial_variables(config, model, self.images.shape[1:])
        return dataclasses.replace(self, config=config, model=model, variables=variables, step=None)


def of_run(
    workdir: str | Path,
    data: str = "test",
    images: int = 128,
    step: int | None = None,
    seed: int = 0,
    moved: Mapping[str, str] | None = None,
) -> Subject:
    """The run in `workdir` at `step`, or at its latest checkpoint; `seed` draws the images of the split.

    `moved` says where folders of images are now; one that is gone and not named is at the first of these.
    Raises InputError for weights that are not finite, of which nothing can be measured.
    """
    run, moved = load(workdir, step), moved or {}
    _check_finite(f"{workdir} at step {run.step}", run.variables)
    folder = run.config.data.dir
    elsewhere = next(iter(moved.values()), folder) if not local_path(folder).exists() else folder
    config = replaced(run.config, {"data.dir": moved.get(folder, elsewhere)})
    shown = _probe(config, data, images, run, seed)
    return Subject(str(workdir), config, run.model, run.variables, run.step, *shown, moved)


def of_config(name: str, config: Config, data: str = NOISE, images: int = 128, seed: int = 0) -> Subject:
    """The net of `config`, as the training of its seed begins; noise needs no data at hand.

    InputError for a net that begins with other weights than random ones.
    """
    for field, unset, value in given_starts(config):
        raise InputError(
            f"a net at its start is asked with random weights, and `{field}` is {value!r}; set "
            f"{field}={unset!r}, or train for '0 steps' and name the run by --workdir"
        )
    outputs = shapes_of(config.data)[1]
    model = make_model(config.model, outputs)
    shown = _probe(config, data, images, None, seed)
    variables = initial_variables(config, model, shown[1].shape[1:])
    _check_finite(f"{name} at its start", variables)
    return Subject(name, config, model, variables, None, *shown)


def none_keeps_shape(subject: Subject) -> InputError:
    """The error for a net without a block whose F(x) has the shape of what it carries."""
    remedy = "ask a net with more blocks"
    if streams_of(subject.config.model):
        remedy = "it carries several streams, of which F(x) has one: ask a net that carries x alone"
    return InputError(f"{subject.name} has no block that keeps the shape of x; {remedy}")


def check_single_net(subject: Subject, options: Any) -> None:
    """Raises InputError if `depths` or `seeds` of the options are chosen for a run."""
    defaults = type(options)()
    if subject.step is not None and (options.depths, options.seeds) != (defaults.depths, defaults.seeds):
        raise InputError(
            f"{subject.name} is a run, which has one depth and seed; give --config=… to scan them"
        )


def _same(ours: tuple[Statistic, Statistic], theirs: tuple[Statistic, Statistic]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _check_finite(name: str, variables: dict[str, Any]) -> None:
    """InputError for the first tensor that holds an infinity or not a number."""
    for path, leaf in jax.tree.leaves_with_path(variables):
        if not bool(jnp.isfinite(leaf).all()):
            raise InputError(
                f"{name}: tensor `{parameter_path(path)}` has values that are not finite; "
                "ask a step, or weights, where all are"
            )


def initial_variables(config: Config, model: ResNet, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """The variables before the first step of a run."""
    key = random_key(jnp.int32(config.seed), INIT)
    return init_variables(key, model=model, image_shape=tuple(image_shape))


def at_depth(config: Config, depth: int) -> dict[str, Any]:
    """Changes that bring a net near `depth` layers: the same number of blocks in each stage."""
    stages = len(FAMILIES[config.model.family])
    inside = depth - layers_outside(config.model)
    return {"model.blocks": (max(1, round(inside / (stages * layers_of_block(config.model)))),) * stages}


def _probe(
    config: Config, data: str, count: int, run: Run | None, seed: int
) -> tuple[Sample, Array, Array, tuple[Statistic, Statistic] | None]:
    """Draws images from a split, or noise: (sample, images, labels, what normalises the images)."""
    check_choice("--data", data, (NOISE, *SPLITS))
    check_within("--images", count, 1, MOST_IMAGES)
    check_within("--images_seed", seed, 0, 2**31 - 1)
    if data == NOISE:
        shape, outputs = (run.task.image_shape, run.task.num_outputs) if run else shapes_of(config.data)
        key = random_key(jnp.int32(config.seed), 0)
        keys = jax.random.split(jax.random.fold_in(key, seed) if seed else key)
        labels = jax.random.randint(keys[1], (count,), 0, outputs)
        regression = config.model.output == "identity" and outputs == 1
        sample = describe(np.asarray(labels), of_images=None, data=data, seed=seed, classes=0)
        images = jax.random.normal(keys[0], (count, *shape))
        return sample, images, labels * 1.0 if regression else labels, None
    if run:
        (split, _), task = load_run_split(run, data, config.data), run.task
    else:
        dataset = load_dataset(config.data)
        split, task = getattr(dataset, data), task_of(dataset)
        if not len(split):
            raise without_images(config.data.name, data)
    index, sample = draw(split.labels, count, data=data, seed=seed, classes=len(task.class_names))
    chosen = split[index]
    images = normalize(jnp.asarray(chosen.images), task.mean, task.std)
    return sample, images, jnp.asarray(chosen.labels), (task.mean, task.std)
