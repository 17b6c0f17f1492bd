"""The net that is asked, and the images it is asked about."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.config import Config, replaced
from resnet.data.augment import normalize
from resnet.data.datasets import load_dataset, shapes_of
from resnet.errors import InputError, check_at_least, check_choice
from resnet.models.branches import BRANCHES
from resnet.models.chain import Part, parts
from resnet.models.geometry import FAMILIES
from resnet.models.resnet import ResNet, make_model
from resnet.run import SPLITS, load
from resnet.runs.task import Task, task_of
from resnet.training.losses import example_losses
from resnet.training.steps import INIT, init_variables, random_key

NOISE = "noise"


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
    data: str
    """Where the images are from: train, validation, test, or noise."""
    images: Float[Array, "n h w c"]
    """Normalised as in training; of noise, standard normal."""
    labels: Array
    """Classes (int) or targets (float); random for noise."""

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
        check_choice("--statistics", statistics, ("batch", "running"))
        return parts(self.config.model, self.outputs, self.variables, statistics)

    def losses(self, logits: Float[Array, "n outputs"]) -> Float[Array, " n"]:
        """The loss of each image, without smoothing."""
        return example_losses(logits, self.labels, output=self.config.model.output)

    def restarted(self, seed: int | None = None, changes: Mapping[str, Any] | None = None) -> "Subject":
        """The same images, and the net at its start with another seed and dotted fields changed."""
        config = replaced(self.config, dict(changes or {}) | ({} if seed is None else {"seed": seed}))
        model = make_model(config.model, self.outputs)
        variables = initial_variables(config, model, self.images.shape[1:])
        return dataclasses.replace(self, config=config, model=model, variables=variables, step=None)


def of_run(workdir: str | Path, data: str = "test", images: int = 128, step: int | None = None) -> Subject:
    """The run in `workdir` at `step`, or at its latest checkpoint."""
    run = load(workdir, step)
    x, labels = _probe(run.config, data, images, run.task)
    return Subject(str(workdir), run.config, run.model, run.variables, run.step, data, x, labels)


def of_config(name: str, config: Config, data: str = NOISE, images: int = 128) -> Subject:
    """The net of `config`, as the training of its seed begins; noise needs no data at hand."""
    outputs = shapes_of(config.data)[1]
    model = make_model(config.model, outputs)
    x, labels = _probe(config, data, images, None)
    variables = initial_variables(config, model, x.shape[1:])
    return Subject(name, config, model, variables, None, data, x, labels)


def initial_variables(config: Config, model: ResNet, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """The variables before the first step of a run."""
    key = random_key(jnp.int32(config.seed), INIT)
    return init_variables(key, model=model, image_shape=tuple(image_shape))


def at_depth(config: Config, depth: int) -> dict[str, Any]:
    """Changes that bring a net near `depth` layers: the same number of blocks in each stage."""
    check_at_least("--depths", depth, 1)
    stages = len(FAMILIES[config.model.family])
    return {"model.blocks": (max(1, round((depth - 2) / (stages * layers_of_block(config)))),) * stages}


def layers_of_block(config: Config) -> int:
    """Convolutions of a residual branch."""
    return len(BRANCHES[config.model.branch].operations)


def _probe(config: Config, data: str, count: int, task: Task | None) -> tuple[Array, Array]:
    """(images, labels): the first `count` of a split, or noise."""
    check_choice("--data", data, (NOISE, *SPLITS))
    check_at_least("--images", count, 1)
    if data == NOISE:
        shape, outputs = (task.image_shape, task.num_outputs) if task else shapes_of(config.data)
        keys = jax.random.split(random_key(jnp.int32(config.seed), 0))
        labels = jax.random.randint(keys[1], (count,), 0, outputs)
        regression = config.model.output == "identity" and outputs == 1
        return jax.random.normal(keys[0], (count, *shape)), labels * 1.0 if regression else labels
    dataset = load_dataset(config.data)
    task = task or task_of(dataset)
    split = getattr(dataset, data)
    if not len(split):
        raise InputError(f"data set {config.data.name!r} has no images in its {data} split")
    images = normalize(jnp.asarray(split.images[:count]), task.mean, task.std)
    return images, jnp.asarray(np.asarray(split.labels[:count]))
