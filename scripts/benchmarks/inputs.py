"""What comes before the net: order of the examples, augmentation, decoding."""

import dataclasses
import io
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from resnet.data.files.resident import decode_images
from resnet.data.order import batch_indices
from resnet.training.step import make_step
from scripts.benchmarks import ours
from scripts.peers.torch_nets import Case

EXAMPLES = 45_000  # CIFAR-10's training images but for the tenth held out


def input_steps(case: Case) -> dict[str, Callable[[], Any]]:
    """A training step for comparison, and what it takes to prepare its batch."""
    steps = itertools.count()
    jpegs = _jpegs(case)
    names = [str(i) for i in range(len(jpegs))]
    return {
        "training step": ours.training_step(case),
        "augmentation": _augmentation(case),
        "order of examples": lambda: batch_indices(0, next(steps), EXAMPLES, case.batch),
        "decoding JPEG": lambda: decode_images(jpegs, names),
    }


def _augmentation(case: Case) -> Callable[[], Any]:
    """Shift by up to 4 pixels and flip, as He 2015 has it for CIFAR, inside a program of their own."""
    config, task = ours.config_of(case), ours.task_of(case)
    config.data.random_crop, config.data.flip = 4, True
    images = jnp.zeros((case.batch, *task.image_shape), jnp.uint8)
    step_of = make_step(config, task, ours.schedule)

    @jax.jit
    def prepare(step, images):
        state = _State(step, jnp.int32(0))
        return step_of.augmented(state, images)[0]  # type: ignore[arg-type]

    steps = itertools.count()
    return lambda: jax.block_until_ready(prepare(jnp.int32(next(steps)), images))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    """What the draws of a batch depend on."""

    step: Any
    seed: Any


def _jpegs(case: Case) -> list[bytes]:
    """A batch of noise of the case's side, as files."""
    pixels = np.random.default_rng(0).integers(0, 256, (case.side, case.side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return [file.getvalue()] * case.batch
