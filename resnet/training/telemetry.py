"""What telemetry.csv holds, measured beside the training step by programs of its own.

On the batch that comes next, with that batch's statistics and without dropout: the numbers of the training
stay the same to the last bit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from resnet.models.chain import Flow, flow, parts
from resnet.models.config import ModelConfig
from resnet.training.losses import example_losses
from resnet.training.step import Step, TrainState

# Images of a batch that are looked at; more would cost time and tell the same.
IMAGES = 128


def observe(step: Step, state: TrainState, batch: Mapping[str, Any]) -> Flow:
    """The flow through the net of one run, its blocks apart, on the first images_seen of a raw batch."""
    state = jax.tree.map(jnp.asarray, state)
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    alone = dataclasses.replace(step, axis=None)
    x, _ = alone.augmented(state, alone.shown(state, batch))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    chain = parts(step.model.config, step.task.num_outputs, variables, "batch")

    def loss(x: Array) -> Array:
        smoothing, output = step.settings.label_smoothing, step.model.config.output
        return example_losses(chain[-1](x), batch["label"], output=output, smoothing=smoothing).mean()

    return flow(chain, x, jax.grad(loss))


def images_seen(model: ModelConfig) -> int:
    """IMAGES, in whole ghost batches."""
    ghost_batch = model.ghost_batch
    return max(ghost_batch, IMAGES // ghost_batch * ghost_batch) if ghost_batch else IMAGES
