"""What is measured beside the training step, by programs of its own.

Predictions and metrics cover a whole split: exactly its n examples, whatever the batch. The values of
telemetry.csv are of the next batch, with its own statistics and without dropout. Neither changes the
numbers of the training by a bit.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Num

from resnet.data.augment import normalize
from resnet.data.batches import padded_batches
from resnet.data.files.delivery import Pace
from resnet.data.splits import Examples
from resnet.errors import InputError
from resnet.kernels.joining import joined
from resnet.models.chain import Flow, flow, parts
from resnet.models.config import ModelConfig
from resnet.models.scanning import compiles_quickly
from resnet.runs.task import Task
from resnet.runtime.devices import (
    DATA,
    compiled,
    compiler_options,
    data_axis,
    each_seed,
    make_mesh,
    placing_last,
    spec_of_seeds,
)
from resnet.training.config import TrainConfig
from resnet.training.losses import example_losses, example_scores
from resnet.training.step import Step, TrainState

# Batches on their way to the device at a time: enough that it never waits, and few to wait for.
AHEAD = 2
# Images of a batch whose flow is looked at; more would cost time and tell the same.
IMAGES = 128
MOST_EVALUATED = 256  # images of each device at a time: more take memory, and are hardly faster

# Names of what an evaluation counts for each class: images classified rightly, and all.
BY_CLASS = ("right", "of")


class Halted(Exception):
    """An evaluation was told to end before its time."""


def images_at_once(train: TrainConfig, devices: int) -> int:
    """Images that are evaluated as one batch, in whole shares of the devices.

    As many as a part of a training batch (`train.accumulate`) has, which is known to fit into memory, and at
    most MOST_EVALUATED on each device.
    """
    share = min(-(-train.batch_size // train.accumulate // devices), MOST_EVALUATED)
    return devices * share


def evaluate(
    variables: dict[str, Any],
    split: Examples,
    *,
    program: Callable,
    batch_size: int,
    pace: Pace | None = None,
    halt: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Means of loss and scores over `split`, n, and counts BY_CLASS, as float64; {} for an empty split.

    `program` is compiled from eval_step. Of variables with a leading axis of seeds, each value has that axis.
    `pace` is that of a stream, of which n images can be read; InputError if none can. Raises Halted within a
    few batches of when `halt` turns true.
    """
    sums = []
    for images, labels, mask in padded_batches(split, batch_size, pace):
        sums.append(program(variables, {"image": images, "label": labels, "mask": mask}))
        if halt():
            raise Halted
        if len(sums) > AHEAD:
            jax.block_until_ready(sums[-1 - AHEAD])
    if not sums:
        return {}
    # Fetched together, so that the device never waits for the host; added in float64.
    fetched = jax.device_get(sums)
    totals = {name: np.asarray([each[name] for each in fetched], np.float64).sum(0) for name in fetched[0]}
    n, counts = totals.pop("n"), {name: totals.pop(name) for name in BY_CLASS if name in totals}
    if not n.all():
        raise InputError(f"none of the {len(split)} images of the split to be evaluated can be read")
    return {name: total / n for name, total in totals.items()} | {"n": n} | counts


def eval_step(
    variables: dict[str, Any],
    batch: dict[str, Array],
    *,
    model: Any,
    task: Task,
    axis: str | None = None,
    flip: bool = False,
    by_class: bool = False,
) -> dict[str, Float[Array, "*classes"]]:
    """Sums over {"image", "label"} where "mask" is 1: n, loss (without smoothing) and the scores.

    With `by_class`, for labels of classes, the counts BY_CLASS too.
    """
    logits = predict(variables, batch["image"], model=model, task=task, flip=flip)
    losses = example_losses(logits, batch["label"], output=model.config.output)
    each = {"loss": losses} | example_scores(logits, batch["label"], task.target_scale)
    # `where`, because 0 * NaN of a padded image would spoil the sum.
    kept = {name: jnp.where(batch["mask"] > 0, value, 0.0) for name, value in each.items()}
    sums = {name: value.sum() for name, value in kept.items()} | {"n": batch["mask"].sum()}
    if by_class:
        for name, values in zip(BY_CLASS, (kept["top1"], batch["mask"]), strict=True):
            sums[name] = jnp.zeros(task.num_outputs).at[batch["label"]].add(values)
    return lax.psum(sums, axis) if axis else sums


def predict(
    variables: dict[str, Any], images: Num[Array, "b h w c"], *, model: Any, task: Task, flip: bool = False
) -> Float[Array, "b outputs"]:
    """Logits of images of pixels from 0 to 255, normalised as in training.

    With `flip`, the mean of those of each image and of its mirror image.
    """

    def logits(images):
        of = joined(lambda variables, x: model.apply(variables, x, train=False)[0])
        return of(variables, normalize(images, task.mean, task.std))

    return (logits(images) + logits(images[:, :, ::-1])) / 2 if flip else logits(images)


def as_numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of one run as Python has them: n an int, the others floats."""
    return {name: int(value) if name == "n" else float(value) for name, value in metrics.items()}


def make_evaluate(
    mesh: Mesh, *, model: Any, task: Task, seeds: int = 1, flip: bool = False, by_class: bool = False
) -> Callable:
    """Compiled (variables, batch) -> sums of eval_step, each batch shared over the mesh.

    With several seeds, variables and sums have a leading axis of them, and the batch is one for all. `flip`
    and `by_class` as in eval_step.
    """
    step = partial(eval_step, model=model, task=task, axis=data_axis(mesh), flip=flip, by_class=by_class)

    def each(variables: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        return each_seed(lambda own: step(own, batch), mesh)(variables)

    specs = (spec_of_seeds(seeds), PartitionSpec(DATA))
    function = each if seeds > 1 else step
    program = compiled(function, mesh, specs, specs[0], quickly=compiles_quickly(model.config))
    return placing_last(program, mesh, specs[1])


def make_predict(*, model: Any, task: Task, flip: bool = False) -> Callable:
    """Compiled (variables, images) -> logits on one device."""
    options = compiler_options(make_mesh(1), quickly=compiles_quickly(model.config))
    return jax.jit(partial(predict, model=model, task=task, flip=flip), compiler_options=options)


def observe(step: Step, state: TrainState, batch: Mapping[str, Any]) -> Flow:
    """The flow through the net of one run, measured on the first images_seen images of a raw batch."""
    state = jax.tree.map(jnp.asarray, state)
    batch = {name: jnp.asarray(array) for name, array in batch.items()}
    alone = dataclasses.replace(step, axis=None)
    x, _ = alone.augmented(state, alone.shown(state, batch))
    chain = parts(step.model.config, step.task.num_outputs, state.current, "batch")

    def loss(x: Array) -> Array:
        losses = example_losses(
            chain[-1](x),
            batch["label"],
            output=step.model.config.output,
            smoothing=step.settings.label_smoothing,
            threshold=step.settings.target_threshold,
        )
        return losses.mean()

    return flow(chain, x, jax.grad(loss))


def images_seen(model: ModelConfig) -> int:
    """IMAGES, in whole ghost batches."""
    ghost_batch = model.ghost_batch
    return max(ghost_batch, IMAGES // ghost_batch * ghost_batch) if ghost_batch else IMAGES
