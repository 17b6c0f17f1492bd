"""A training step as a pure function of its arguments."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from resnet.config import Config
from resnet.data.augment import ImageOperation, augment, mirrored_in_turn, shrunk
from resnet.data.augmentation.mixing import partners
from resnet.data.batches import Delivered, Resident
from resnet.data.streams import AUGMENT, DROPOUT, INIT, MIRROR, MIX, random_key
from resnet.kernels.joining import run_joined
from resnet.models.resnet import ResNet
from resnet.runs.task import Task
from resnet.training.config import TrainConfig
from resnet.training.divergence import at_lowered_rate, guarded, initial_guard, watched
from resnet.training.losses import example_losses, example_scores
from resnet.training.optimizers import constant_where, make_optimizer
from resnet.training.schedules import Schedule
from resnet.training.start import init_optimizer, init_variables, variables_shapes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training. Data order and random draws are functions of (seed, step).

    Fields hold arrays on the device or the host, or only their shapes; hence `Any`.
    """

    step: Any
    """Finished steps, an int32 scalar."""
    seed: Any
    """The run's seed, an int32 scalar."""
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any
    """{"params", "batch_stats"}, or {} without a moving average."""
    guard: Any = dataclasses.field(default_factory=dict)
    """What divergence is judged by: {} unless it is watched on the device."""

    @property
    def current(self) -> dict[str, Any]:
        """The variables as they are trained: {"params", "batch_stats"}."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that are evaluated: the moving average where there is one, else the current ones."""
        return self.ema or self.current


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Everything that a training step uses: the net, the optimiser, the task and the settings."""

    model: Any
    optimizer: optax.GradientTransformation
    schedule: Schedule
    """The learning rate as a function of the step, for the record; the optimiser applies it."""
    task: Task
    augmentation: tuple[ImageOperation, ...]
    settings: TrainConfig
    freeze: str = ""
    """Regular expression on the paths of parameters that keep their first values."""
    axis: str | None = None
    """Mesh axis that each batch is shared over; None for a batch on one device, or in a program of all."""
    mirrored_every: int = 0
    """The number of steps of an epoch where `data.alternate_flip` mirrors images by epoch; 0 without it."""
    side: int = 0
    """Shorter side of the images it sees; 0: as they are."""
    whole: Callable[[Any], Any] = lambda params: params
    """Gathers parameters that are divided over devices, see runtime/sharding.py."""

    def init(self, seed: int | Int[Array, ""]) -> TrainState:
        """The state before the first step."""
        key = random_key(seed, INIT)
        return self.begun(seed, init_variables(key, model=self.model, image_shape=self.task.image_shape))

    def begun(self, seed: int | Int[Array, ""], variables: dict[str, Any]) -> TrainState:
        """The state before the first step, with these variables."""
        return self._state(seed, variables, init_optimizer(self.optimizer.init, variables["params"]))

    def shapes(self) -> TrainState:
        """The state before the first step as shapes; draws nothing."""
        variables = variables_shapes(model=self.model, image_shape=self.task.image_shape)
        optimizer = jax.eval_shape(self.optimizer.init, variables["params"])
        return jax.eval_shape(self._state, 0, variables, optimizer)

    def _state(self, seed: int | Int[Array, ""], variables: dict[str, Any], optimizer: Any) -> TrainState:
        # Copied, because the state is donated and no buffer may be donated twice.
        ema = jax.tree.map(jnp.copy, variables) if self.settings.ema else {}
        guard = initial_guard(self.settings)
        seed = jnp.asarray(seed, jnp.int32)
        return TrainState(jnp.int32(0), seed, **variables, opt_state=optimizer, ema=ema, guard=guard)

    def train(
        self, state: TrainState, batch: Mapping[str, Array] | Resident | Delivered
    ) -> tuple[TrainState, dict[str, Float[Array, "..."]]]:
        """One optimiser step on raw uint8 images {"image", "label"}; metrics are means over the batch.

        "place", the examples' places in the training split, is read where images are mirrored in turn.
        """
        with jax.named_scope("data"):
            images, dropout = self.augmented(state, self.shown(state, batch))
            examples, scored = self.mixed(state, {"image": images, "label": batch["label"]})
        model, settings = self.model.clone(axis_name=self.axis), self.settings

        def loss_function(params, batch_stats, examples, dropout):
            (logits, _), mutated = model.apply(
                {"params": constant_where(self.freeze, self.whole(params)), "batch_stats": batch_stats},
                examples["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout},
            )
            losses = example_losses(
                logits,
                examples["label"],
                output=model.config.output,
                smoothing=settings.label_smoothing,
                share=examples.get("share"),
                threshold=settings.target_threshold,
            )
            return losses.mean(), (logits, mutated.get("batch_stats", {}))

        gradient = jax.value_and_grad(loss_function, has_aux=True)
        if settings.accumulate > 1:
            gradient = partial(accumulated, gradient, settings.accumulate)
        if settings.sam:
            gradient = partial(sharpness_aware, gradient, settings.sam, self.axis)
        arguments = (state.params, state.batch_stats, examples, dropout)
        program = jax.make_jaxpr(gradient, return_shape=True)(*arguments)
        (loss, (logits, batch_stats)), grads = run_joined(program, arguments)
        scores = example_scores(logits, scored, self.task.target_scale)
        metrics = {"loss": loss} | {name: score.mean() for name, score in scores.items()}
        if self.axis:
            grads, metrics = lax.pmean((grads, metrics), self.axis)
        metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": self.schedule(state.step)}
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, at_lowered_rate(updates, state.guard))
        ema = moving_average(state, {"params": params, "batch_stats": batch_stats}, self.settings)
        new = TrainState(state.step + 1, state.seed, params, batch_stats, opt_state, ema)
        return (
            guarded(state, new, metrics, grads, self.settings) if watched(self.settings) else (new, metrics)
        )

    def shown(
        self, state: TrainState, batch: Mapping[str, Array] | Resident | Delivered
    ) -> UInt8[Array, "b h w c"]:
        """The images of a batch, shrunk to `side` and mirrored in turn where the step is to."""
        images = shrunk(batch["image"], self.side) if self.side else batch["image"]
        if not self.mirrored_every:
            return images
        key = random_key(state.seed, MIRROR)
        return mirrored_in_turn(key, batch["place"], state.step // self.mirrored_every, images)

    def augmented(
        self, state: TrainState, images: UInt8[Array, "b h w c"]
    ) -> tuple[Float[Array, "b h w c"], Array]:
        """Normalised and augmented images, and the key of the net's own noise.

        Each image's draws follow its place in the global batch, so that sharding changes nothing.
        """
        device, places = self._places(len(images))
        key = jax.random.fold_in(random_key(state.seed, AUGMENT), state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        images = augment(keys, images, self.augmentation, self.task.mean, self.task.std)
        dropout = jax.random.fold_in(random_key(state.seed, DROPOUT), state.step)
        return images, jax.random.fold_in(dropout, device)

    def _places(self, count: int) -> tuple[Int[Array, ""] | int, Int[Array, " b"]]:
        """This device's number, and the places in the global batch of its images."""
        device = lax.axis_index(self.axis) if self.axis else 0
        return device, device * count + jnp.arange(count)

    def mixed(self, state: TrainState, examples: dict[str, Array]) -> tuple[dict[str, Array], Array]:
        """The examples, mixed if they are to be, and the labels that answers are scored by.

        Mixed ones have "share" too: how much of its own label each has. The larger share is what is scored.
        """
        labels, mixing = examples["label"], self.settings.mixing
        if mixing is None:
            return examples, labels
        key = jax.random.fold_in(random_key(state.seed, MIX), state.step)
        images, share = mixing(key, self._places(len(labels))[1], examples["image"])
        return examples | {"image": images, "share": share}, jnp.where(share >= 0.5, labels, partners(labels))


def accumulated(
    gradient: Callable, parts: int, params: Any, batch_stats: Any, examples: dict[str, Array], dropout: Array
) -> Any:
    """The mean of `gradient` over so many equal parts of the examples, computed one after the other.

    Batch norms see each part alone, and their statistics move with each.
    """

    def add(carry, part):
        batch_stats, total = carry
        number, own = part
        key = jax.random.fold_in(dropout, number)
        (loss, (logits, batch_stats)), grads = gradient(params, batch_stats, own, key)
        return (batch_stats, jax.tree.map(jnp.add, total, grads)), (loss, logits)

    apart = jax.tree.map(lambda each: each.reshape(parts, -1, *each.shape[1:]), examples)
    start = (batch_stats, jax.tree.map(jnp.zeros_like, params))
    (batch_stats, total), (losses, logits) = lax.scan(add, start, (jnp.arange(parts), apart))
    grads = jax.tree.map(lambda each: each / parts, total)
    return (losses.mean(), (logits.reshape(-1, logits.shape[-1]), batch_stats)), grads


def sharpness_aware(gradient: Callable, distance: float, axis: str | None, params: Any, *others: Any) -> Any:
    """What `gradient` gives, but the gradient is that of a neighbour: SAM (Foret 2021, arXiv 2010.01412).

    The neighbour lies so far along the gradient of the whole batch, over all devices of `axis`.
    """
    here, grads = gradient(params, *others)
    grads = lax.pmean(grads, axis) if axis else grads
    scale = distance / (optax.tree.norm(grads) + 1e-12)
    neighbour = jax.tree.map(lambda param, grad: param + scale * grad, params, grads)
    return here, gradient(neighbour, *others)[1]


def each_step(train: Callable, state: TrainState, batch: Resident | Delivered) -> Any:
    """(state, metrics of each) after as many steps as the batch's own arrays have entries."""
    return lax.scan(lambda state, own: train(state, batch.of(own)), state, batch.own)


def each_seed_of_batch(
    train: Callable, mapped: Callable[[Callable], Callable], state: TrainState, batch: Resident | Delivered
) -> Any:
    """`train` for each entry of the leading axis of the state and of the batch's own arrays."""
    return mapped(lambda state, own: train(state, batch.of(own)))(state, batch.own)


def make_step(config: Config, task: Task, schedule: Schedule, axis: str | None = None) -> Step:
    """The step of a checked config on the data of a task."""
    return Step(
        model=ResNet(config.model, task.num_outputs),
        optimizer=make_optimizer(config.optimizer, schedule, config.freeze),
        schedule=schedule,
        task=task,
        augmentation=tuple(operation for _, operation in config.data.operations()),
        settings=config.train,
        freeze=config.freeze,
        axis=axis,
    )


def moving_average(state: TrainState, variables: dict[str, Any], settings: TrainConfig) -> Any:
    """The next average; its decay starts low, as (1 + t) / (10 + t), to forget the initial values.

    t counts the updates, of which there is one each `train.ema_every` steps.
    """
    if not state.ema:
        return state.ema
    every = settings.ema_every
    count = (state.step // every).astype(jnp.float32)
    keep = jnp.minimum(settings.ema**every, (1.0 + count) / (10.0 + count))

    def update(ema):
        # In this form the average of what does not change does not change either.
        return jax.tree.map(lambda old, new: old + (1.0 - keep) * (new - old), ema, variables)

    if every == 1:
        return update(state.ema)
    return lax.cond((state.step + 1) % every == 0, update, lambda ema: ema, state.ema)
