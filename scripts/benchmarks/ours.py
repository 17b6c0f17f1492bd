"""Steps of ours as calls without arguments: the compiled programs of a run, on a batch that is resident."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.config import Config, replaced
from resnet.data.splits import Dataset, Split
from resnet.kernels.backend import by_xla_alone
from resnet.models.resnet import make_model
from resnet.runs.task import Task
from resnet.runs.task import task_of as make_task
from resnet.runtime.devices import make_mesh
from resnet.training.evaluation import make_predict
from resnet.training.step import init_variables
from resnet.training.trainer import make_trainer
from scripts.peers.torch_nets import Case


@dataclasses.dataclass(eq=False)
class Training:
    """A compiled program (state, batch) -> (state, metrics), and what the next call of it gets."""

    compiled: Any
    state: Any
    batch: Any

    def __call__(self) -> None:
        self.state, metrics = self.compiled(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))


def config_of(case: Case, **fields: Any) -> Config:
    """SGD on the case's net, with `fields` of the model set; no augmentation."""
    config = Config()
    config.data.normalization = "none"
    config.model = dataclasses.replace(case.peer.config, **fields)
    config.train.batch_size = case.batch
    return config


def _dataset(case: Case) -> Dataset:
    """Two batches of random images in as many classes as the net tells apart."""
    images = np.random.default_rng(0).integers(0, 256, (2 * case.batch, case.side, case.side, 3), np.uint8)
    split = Split(images, np.arange(2 * case.batch, dtype=np.int32) % case.num_outputs)
    names = tuple(map(str, range(case.num_outputs)))
    mean, std = np.zeros(3, np.float32), np.full(3, 255, np.float32)
    return Dataset(split, split[:0], split[:0], mean, std, names, "", 1.0)


def task_of(case: Case) -> Task:
    """What a run on such images remembers of them."""
    return make_task(_dataset(case))


def lowered(
    case: Case,
    *,
    devices: int = 1,
    seeds: int = 1,
    steps: int = 1,
    plain: bool = False,
    changes: Mapping[str, Any] | None = None,
    **fields: Any,
) -> tuple[Any, tuple[Any, ...]]:
    """The program of the steps before it is compiled, and its arguments.

    With XLA's convolutions if `plain`; `changes` are of any fields of the config, `fields` of the model's.
    """
    config, mesh = replaced(config_of(case, **fields), changes or {}), make_mesh(devices, seeds)
    config.train.steps_per_call = steps
    trainer = make_trainer(config, _dataset(case), mesh, range(seeds))
    # The values decide nothing of the speed, and drawing them one by one takes seconds.
    states = [jax.tree.map(_small, trainer.shapes) for _ in range(seeds)]
    arguments = trainer.to_devices(states), trainer.batch(range(steps))
    with by_xla_alone() if plain else contextlib.nullcontext():
        return trainer.train(steps).lower(*arguments), arguments


def schedule(step: Any) -> Any:
    return jnp.float32(0.01)


def _small(shape: jax.ShapeDtypeStruct) -> np.ndarray:
    """Values in place of the initial ones, so small that no loss overflows."""
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        return np.zeros(shape.shape, shape.dtype)
    return np.random.default_rng(0).normal(0.0, 0.02, shape.shape).astype(shape.dtype)


def training_step(case: Case, **options: Any) -> Training:
    """`steps` steps of each of `seeds` runs in one call, as scripts/train.py makes them: see `lowered`."""
    program, arguments = lowered(case, **options)
    return Training(program.compile(), *arguments)


def inference_step(case: Case, **fields: Any) -> Callable[[], Any]:
    """Logits of one batch of raw images on one device."""
    config, task = config_of(case, **fields), task_of(case)
    model = make_model(config.model, task.num_outputs)
    shapes = jax.eval_shape(
        lambda: init_variables(jax.random.key(0), model=model, image_shape=task.image_shape)
    )
    variables = jax.device_put(jax.tree.map(_small, shapes))
    images = jnp.zeros((case.batch, *task.image_shape), jnp.uint8)
    predict = make_predict(model=model, task=task)
    return lambda: jax.block_until_ready(predict(variables, images))
