"""The output function of a regression: identity, sigmoid or tanh, for targets inside and outside of it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from resnet.analysis.claims.claim import Bench, Claim, Rows, row_of
from resnet.analysis.growth import mean_of
from resnet.analysis.laws import Check, Law, check
from resnet.config import replaced
from resnet.data.augment import normalize
from resnet.data.datasets import load_dataset
from resnet.models.resnet import make_model
from resnet.training.losses import squared_error
from resnet.training.start import init_variables

FUNCTIONS = {"identity": lambda z: z, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
# What the turn of a digit, in -1..1, is mapped to: (factor, offset).
TARGETS = {"inside, 0.1 to 0.9": (0.4, 0.5), "outside, -2 to 2": (2.0, 0.0)}
NET = {"model.blocks": (1, 1, 1), "model.width": 0.25}
STEPS, BATCH, RATE, SEEDS = 200, 64, 3e-3, 3
SATURATED = -10.0


def measure_saturation(bench: Bench) -> Rows:
    """What of the error an output function passes down to the logit, for half the squared error."""
    rows = []
    for logit in (SATURATED, -1.0, 0.5):
        row: dict[str, Any] = {"logit": logit, "target": 0.75, "error, identity": logit - 0.75}
        for name, function in FUNCTIONS.items():
            loss = functools.partial(_loss_of_logit, function=function, target=0.75)
            row[f"gradient, {name}"] = float(jax.grad(loss)(logit))
        rows.append(row)
    return rows


def rule_saturation(rows: Rows) -> list[Check]:
    checks = [
        check(f"identity at logit {row['logit']:g}: gradient over error",
              row["gradient, identity"] / row["error, identity"], Law("equal", 1.0))
        for row in rows
    ]  # fmt: skip
    saturated = row_of(rows, logit=SATURATED)
    for name in ("sigmoid", "tanh"):
        checks.append(check(f"{name} at logit {SATURATED:g}: gradient", abs(saturated[f"gradient, {name}"]),
                            Law("at most", 1e-3)))  # fmt: skip
    return checks


def _loss_of_logit(logit: Array, function: Any, target: float) -> Array:
    return squared_error(function(logit)[None, None], jnp.array([[target]]))[0]


def measure_regressions(bench: Bench) -> Rows:
    """Nets that learn by which angle a digit was turned, for each output function and range of targets."""
    config = replaced(bench.rotation, NET)
    data = load_dataset(config.data)
    unit = float(data.target_scale)
    rows = []
    for targets, (factor, offset) in TARGETS.items():
        row: dict[str, Any] = {"targets": targets, "n": SEEDS}
        for name in FUNCTIONS:
            errors = [
                _degrees(config, data, list(FUNCTIONS).index(name), factor, offset, seed) * unit
                for seed in range(SEEDS)
            ]
            row[f"{name}, degrees off"], row[f"_{name}"] = mean_of(errors), errors
        rows.append(row)
    return rows


def rule_regressions(rows: Rows) -> list[Check]:
    """Degrees that sigmoid and tanh are farther off than the identity, for targets of each range."""
    checks = []
    for row in rows:
        for name in ("sigmoid", "tanh"):
            behind = mean_of(np.array(row[f"_{name}"]) - np.array(row["_identity"]))
            checks.append(Check(f"targets {row['targets']}: degrees that {name} is off beyond the identity",
                                behind, Law("at least", 0.0)))  # fmt: skip
    return checks


def _degrees(config: Any, data: Any, function: int, factor: float, offset: float, seed: int) -> float:
    """Mean absolute error on the test images, as a share of the greatest angle."""
    model = make_model(config.model, 1)
    variables = init_variables(jax.random.key(seed), model=model, image_shape=data.image_shape)
    images = {name: normalize(jnp.asarray(split.images), data.mean, data.std)
              for name, split in (("train", data.train), ("test", data.test))}  # fmt: skip
    labels = jnp.asarray(data.train.labels) * factor + offset
    order = jax.random.randint(jax.random.key(seed), (STEPS, BATCH), 0, len(labels))
    variables = _fit(variables, images["train"], labels, order, function, model=model)
    said = _answers(variables, images["test"], function, model=model)
    return float(jnp.abs((said - offset) / factor - jnp.asarray(data.test.labels)).mean())


@functools.partial(jax.jit, static_argnames="model")
def _answers(variables: Any, images: Array, function: Any, *, model: Any) -> Array:
    logits, _ = model.apply(variables, images, train=False)
    return jax.lax.switch(function, list(FUNCTIONS.values()), logits)[:, 0]


@functools.partial(jax.jit, static_argnames="model")
def _fit(variables: Any, images: Array, labels: Array, order: Array, function: Any, *, model: Any) -> Any:
    """Adam at a rate that falls to 0, on one batch for each row of `order`."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(params: Any, batch_stats: Any, batch: Array) -> tuple[Array, Any]:
        (logits, _), new = model.apply(
            {"params": params, "batch_stats": batch_stats}, images[batch], train=True, mutable=["batch_stats"]
        )
        said = jax.lax.switch(function, list(FUNCTIONS.values()), logits)
        return squared_error(said, labels[batch][:, None]).mean(), new["batch_stats"]

    def step(carry: tuple, batch: Array) -> tuple[tuple, None]:
        params, batch_stats, state = carry
        grads, batch_stats = jax.grad(loss, has_aux=True)(params, batch_stats, batch)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), batch_stats, state), None

    first = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))
    (params, batch_stats, _), _ = jax.lax.scan(step, first, order)
    return {"params": params, "batch_stats": batch_stats}


CLAIMS = (
    Claim(
        "For real targets the identity passes the error on; sigmoid and tanh do not where they are saturated",
        "For half the squared error and the target 0.75, the gradient at the logit is the error with the "
        f"identity, and at most 1/1000 with a sigmoid or tanh at the logit {SATURATED:g}.",
        "The output function is not what decides whether the error is passed on.",
        measure_saturation, rule_saturation,
    ),
    Claim(
        "For regression the identity is the output function",
        f"Small nets that learn by which angle a digit was turned ({STEPS} steps of Adam, {SEEDS} seeds): "
        "with targets outside of the range of sigmoid and tanh, and with targets inside of it, neither is "
        "as close as the identity.",
        "Where all targets lie in its range, another output function can be as good or better.",
        measure_regressions, rule_regressions,
    ),
)  # fmt: skip
