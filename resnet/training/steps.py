"""One training step and one evaluation step as pure functions of their arguments."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from resnet.data.augment import augment, normalize
from resnet.data.streams import AUGMENT, DROPOUT, INIT, random_key
from resnet.errors import InputError, check_at_least
from resnet.paths import check_matches
from resnet.runs.task import Task
from resnet.training.divergence import check_policy, guarded, initial_guard, scaled, watched
from resnet.training.losses import example_losses, example_scores
from resnet.training.optimizers import check_multipliers, held
from resnet.training.schedules import Schedule, parse_duration

if TYPE_CHECKING:
    from resnet.config import Config


@dataclasses.dataclass(unsafe_hash=True)
class TrainConfig:
    """How long, in which portions, and towards which targets the net is trained."""

    seeds: int = 1
    """Runs trained together as one program: of `seed`, `seed` + 1, …, each in a folder of its own."""
    batch_size: int = 128
    """Images per step, over all devices."""
    duration: str = "64000 steps"
    """Length of the training, e.g. "20 epochs", "64000 steps", "128000 examples"."""
    steps_per_call: int = 1
    """Steps per dispatch to the device; changes the speed, not the numbers."""
    label_smoothing: float = 0.0
    """Share of each one-hot target spread over all classes (Szegedy 2016: 0.1)."""
    ema: float = 0.0
    """Decay per step of the moving average of parameters and statistics that is evaluated; 0 = none."""
    evaluate_every: str = "1 epochs"
    """How often the validation split is evaluated."""
    on_divergence: str = "stop"
    """What a loss or gradient that is not finite, or a spike, leads to: stop, skip or rollback.

    Skip leaves out the update of that step; rollback returns to the last checkpoint."""
    spike_factor: float = 0.0
    """A loss so many times its mean over the last fifty steps or so is a spike; 0 = there are none."""
    rollbacks: int = 3
    """How often a run returns to its last checkpoint before it stops after all."""
    rollback_factor: float = 0.5
    """What each rollback multiplies the learning rate with."""
    log_every: str = "50 steps"
    """How often the mean training metrics since the last line are written."""
    telemetry_every: str = "1000 steps"
    """How often the scales of x, F(x) and the gradient at every block go to telemetry.csv; 0 steps: never."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_at_least("train.seeds", self.seeds, 1)
        check_at_least("train.batch_size", self.batch_size, 1)
        check_at_least("train.steps_per_call", self.steps_per_call, 1)
        for field in ("label_smoothing", "ema"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise InputError(f"`train.{field}` must be at least 0 and below 1; got {value}")
        if parse_duration("train.duration", self.duration).unit == "%":
            raise InputError(f"`train.duration` must be in steps, epochs or examples; got {self.duration!r}")
        parse_duration("train.evaluate_every", self.evaluate_every)
        parse_duration("train.log_every", self.log_every)
        parse_duration("train.telemetry_every", self.telemetry_every)
        check_policy(self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that changes in training. Data order and random draws are functions of (seed, step).

    Fields hold arrays on the device or the host, or only their shapes, and have a leading axis where
    several seeds are trained together; hence `Any`.
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
    def variables(self) -> dict[str, Any]:
        """What is evaluated: the moving average where there is one, else the weights."""
        current = {"params": self.params, "batch_stats": self.batch_stats}
        return self.ema or current


def init_variables(key: Array, *, model: Any, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Initial {"params", "batch_stats"} of a model.

    Not for `jit`: parameter by parameter, so that the bits of one depend on its path and shape alone,
    and a deep net takes no longer to compile than a shallow one.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = model.lazy_init(key, images, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def init_state(
    seed: int | Int[Array, ""],
    *,
    model: Any,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    config: "Config",
) -> TrainState:
    """The state before the first step."""
    seed = jnp.asarray(seed, jnp.int32)
    variables = init_variables(random_key(seed, INIT), model=model, image_shape=image_shape)
    check_multipliers(config.optimizer, variables["params"])
    check_matches("freeze", config.freeze, variables["params"])
    check_matches("model.bn_fixed", config.model.bn_fixed, variables["batch_stats"])
    # Copied, because the state is donated and no buffer may be donated twice.
    ema = jax.tree.map(jnp.copy, variables) if config.train.ema else {}
    opt_state = optimizer.init(variables["params"])
    guard = initial_guard(config.train)
    return TrainState(jnp.int32(0), seed, **variables, opt_state=opt_state, ema=ema, guard=guard)


def train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    model: Any,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    task: Task,
    config: "Config",
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One optimiser step on raw uint8 images {"image", "label"}; means are over `axis_name` too."""
    images, dropout = training_images(state, batch["image"], task=task, config=config, axis_name=axis_name)

    def loss_function(params):
        (logits, _), mutated = model.apply(
            {"params": held(params, config.freeze), "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout},
        )
        losses = example_losses(
            logits,
            batch["label"],
            output=config.model.output,
            smoothing=config.train.label_smoothing,
        )
        return losses.mean(), (logits, mutated.get("batch_stats", {}))

    value_and_grad = jax.value_and_grad(loss_function, has_aux=True)
    (loss, (logits, batch_stats)), grads = value_and_grad(state.params)
    scores = example_scores(logits, batch["label"], task.target_scale)
    metrics = {"loss": loss} | {name: score.mean() for name, score in scores.items()}
    if axis_name:
        grads, metrics = lax.pmean((grads, metrics), axis_name)
    metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state.step)}
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, scaled(updates, state.guard))
    ema = _moving_average(state, {"params": params, "batch_stats": batch_stats}, config.train.ema)
    new = TrainState(state.step + 1, state.seed, params, batch_stats, opt_state, ema)
    return guarded(state, new, metrics, grads, config.train) if watched(config.train) else (new, metrics)


def training_images(
    state: TrainState,
    images: UInt8[Array, "b h w c"],
    *,
    task: Task,
    config: "Config",
    axis_name: str | None,
) -> tuple[Float[Array, "b h w c"], Array]:
    """Normalised and augmented images, and the key of the net's own noise.

    Each image's draws follow its place in the global batch, so that sharding changes nothing.
    """
    device = lax.axis_index(axis_name) if axis_name else 0
    places = device * images.shape[0] + jnp.arange(images.shape[0])
    key = jax.random.fold_in(random_key(state.seed, AUGMENT), state.step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    images = augment(keys, normalize(images, task.mean, task.std), config.data)
    dropout = jax.random.fold_in(random_key(state.seed, DROPOUT), state.step)
    return images, jax.random.fold_in(dropout, device)


def _moving_average(state: TrainState, variables: dict[str, Any], decay: float) -> Any:
    """The next average; its decay starts low, as (1 + t) / (10 + t), to forget the initial values."""
    if not state.ema:
        return state.ema
    step = state.step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    # In this form the average of what does not change does not change either.
    return jax.tree.map(lambda old, new: old + (1.0 - keep) * (new - old), state.ema, variables)


def train_steps(
    state: TrainState, arrays: dict[str, Array], indices: Int[Array, "seeds k b"], **bound: Any
) -> tuple[TrainState, dict[str, Float[Array, "seeds k"]]]:
    """k steps of each seed on batches gathered from the resident {"image", "label"}.

    The state has a leading axis of seeds; `bound` as in train_step.
    """

    def alone(state, index):
        return train_step(state, {name: array[index] for name, array in arrays.items()}, **bound)

    together = each_seed(alone)
    if indices.shape[1] == 1:
        # No loop for one step: XLA on the CPU lays convolutions out well outside of loops only.
        state, metrics = together(state, indices[:, 0])
        return state, {name: value[:, None] for name, value in metrics.items()}
    state, metrics = lax.scan(together, state, indices.swapaxes(0, 1))
    return state, {name: value.swapaxes(0, 1) for name, value in metrics.items()}


def each_seed(function: Callable) -> Callable:
    """`function` for each entry of the leading axis of all its arguments.

    Of a single entry the axis is taken away: it runs the program of a run alone, to the same bits. The CPU
    takes the entries one after the other, as caches hold what one needs; accelerators, which have processors
    to spare, all at once.
    """

    def each(*arguments: Any) -> Any:
        if len(jax.tree.leaves(arguments)[0]) == 1:
            alone = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), arguments)
            return jax.tree.map(lambda leaf: leaf[None], function(*alone))
        if jax.default_backend() == "cpu":
            return lax.map(lambda entry: function(*entry), arguments)
        return jax.vmap(function)(*arguments)

    return each


def eval_step(
    variables: dict[str, Any],
    batch: dict[str, Array],
    *,
    model: Any,
    task: Task,
    config: "Config",
    axis_name: str | None = None,
) -> dict[str, Float[Array, ""]]:
    """Sums over {"image", "label"} where "mask" is 1: n, loss (without smoothing) and the scores."""
    logits = predict(variables, batch["image"], model=model, task=task)
    losses = example_losses(logits, batch["label"], output=config.model.output)
    each = {"loss": losses} | example_scores(logits, batch["label"], task.target_scale)
    # `where`, because 0 * NaN of a padded image would spoil the sum.
    sums = {name: jnp.where(batch["mask"] > 0, value, 0.0).sum() for name, value in each.items()}
    sums["n"] = batch["mask"].sum()
    return lax.psum(sums, axis_name) if axis_name else sums


def predict(
    variables: dict[str, Any], images: UInt8[Array, "b h w c"], *, model: Any, task: Task
) -> Float[Array, "b outputs"]:
    """Logits of raw images, normalised as in training."""
    logits, _ = model.apply(variables, normalize(images, task.mean, task.std), train=False)
    return logits
