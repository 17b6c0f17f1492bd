"""Steps of ours as calls without arguments: the compiled programs of a run, on images that are resident."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.config import Config
from resnet.kernels.backend import by_xla_alone
from resnet.models.resnet import make_model
from resnet.runs.task import Task
from resnet.training.optimizers import make_optimizer
from resnet.training.parallel import axis_name, make_mesh, make_predict, make_train_steps, replicate, stack
from resnet.training.steps import init_state, init_variables
from scripts.peers.torch_nets import Case


@dataclasses.dataclass(eq=False)
class Training:
    """`steps` training steps of each of `seeds` runs in one call, as scripts/train.py makes them."""

    compiled: Any
    state: Any
    arrays: dict[str, jax.Array]
    indices: np.ndarray

    def __call__(self) -> None:
        self.state, metrics = self.compiled(self.state, self.arrays, self.indices)
        jax.block_until_ready((self.state, metrics))


def config_of(case: Case, **fields: Any) -> Config:
    """SGD on the case's net, with `fields` of the model set; no augmentation."""
    config = Config()
    config.data.normalization = "none"
    config.model = dataclasses.replace(case.peer.config, **fields)
    config.train.batch_size = case.batch
    return config


def task_of(case: Case) -> Task:
    """Random images in as many classes as the net tells apart."""
    names = tuple(map(str, range(case.num_outputs)))
    return Task("classification", (case.side, case.side, 3), names, np.zeros(3, np.float32),
                np.full(3, 255, np.float32))  # fmt: skip


def lowered(
    case: Case, *, devices: int = 1, seeds: int = 1, steps: int = 1, plain: bool = False, **fields: Any
) -> tuple[Any, tuple[Any, ...]]:
    """The program of the steps before it is compiled, and its arguments; `plain`: XLA's convolutions."""
    config, task, mesh = config_of(case, **fields), task_of(case), make_mesh(devices, seeds)
    optimizer = make_optimizer(config.optimizer, _schedule)
    model = make_model(config.model, task.num_outputs, axis_name(mesh))
    program = make_train_steps(
        mesh, model=model, optimizer=optimizer, schedule=_schedule, task=task, config=config
    )
    # The values decide nothing of the speed, and drawing them one by one takes seconds.
    alone = make_model(config.model, task.num_outputs)
    init = functools.partial(
        init_state, 0, model=alone, optimizer=optimizer, image_shape=task.image_shape, config=config
    )
    shapes = jax.eval_shape(init)
    states = [jax.tree.map(_small, shapes) for _ in range(seeds)]
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2 * case.batch, *task.image_shape), np.uint8)
    labels = np.arange(2 * case.batch, dtype=np.int32) % case.num_outputs
    arrays = replicate({"image": jnp.asarray(images), "label": jnp.asarray(labels)}, mesh)
    indices = np.arange(seeds * steps * case.batch, dtype=np.int32) % len(images)
    arguments = stack(states, mesh, config.model), arrays, indices.reshape(seeds, steps, case.batch)
    with by_xla_alone() if plain else contextlib.nullcontext():
        return program.lower(*arguments), arguments


def _schedule(step: Any) -> Any:
    return jnp.float32(0.01)


def _small(shape: jax.ShapeDtypeStruct) -> np.ndarray:
    """Values in place of the initial ones, so small that no loss overflows."""
    if not jnp.issubdtype(shape.dtype, jnp.floating):
        return np.zeros(shape.shape, shape.dtype)
    return np.random.default_rng(0).normal(0.0, 0.02, shape.shape).astype(shape.dtype)


def training_step(case: Case, **options: Any) -> Training:
    """See `lowered`."""
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
