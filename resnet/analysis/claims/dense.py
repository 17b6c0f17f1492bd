"""Deep and small dense nets on digits: stacks of layers that hold nothing but a function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from resnet.config import Config
from resnet.data.datasets import load_dataset
from resnet.models.layers import ACTIVATIONS

UNITS, STEPS, BATCH, RATE, NETS = 64, 300, 256, 3e-3, 5


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Digits as vectors, normalised to mean 0 and deviation 1 of all pixels."""

    train: Float[Array, "n 64"]
    train_labels: Int[Array, " n"]
    test: Float[Array, "m 64"]
    test_labels: Int[Array, " m"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What is asked of a trained net."""

    accuracy: float
    """On the test images."""
    not_affine: float
    """|f(x + y) - f(x) - f(y) + f(0)| over |f(x + y) - f(0)|, root mean squares: 0 for an affine map."""
    rank: int
    """Of the Jacobian at one image."""


def digits(config: Config) -> Data:
    """The digits of a config."""
    dataset = load_dataset(config.data)

    def vectors(images: np.ndarray) -> Array:
        x = images.reshape(len(images), -1).astype(np.float32)
        return jnp.asarray((x - np.mean(dataset.mean)) / np.mean(dataset.std))

    train, test = dataset.train, dataset.test
    return Data(
        vectors(train.images), jnp.asarray(train.labels), vectors(test.images), jnp.asarray(test.labels)
    )


def layers(key: Array, depth: int, gain: float) -> Float[Array, "depth 64 64"]:
    """Orthogonal matrices times `gain`."""
    return gain * jax.vmap(lambda key: jax.random.orthogonal(key, UNITS))(jax.random.split(key, depth))


def forward(weights: dict[str, Array], x: Array, function: str) -> Array:
    """Hidden layers, each followed by the function, and a linear one to the logits."""

    def layer(x: Array, w: Array) -> tuple[Array, None]:
        return ACTIVATIONS[function].function(x @ w), None

    hidden, _ = jax.lax.scan(layer, x, weights["hidden"])
    return hidden @ weights["head"]


def fit_dense(data: Data, function: str, depth: int, seed: int) -> Trained:
    """A net of `depth` layers with weights, the last of which gives the logits."""
    gain = {"identity": 1.0, "relu": 2.0**0.5}.get(function, 1.0)
    start, draw = jax.random.split(jax.random.key(seed))
    weights = {"hidden": layers(start, depth - 1, gain), "head": jnp.zeros((UNITS, 10))}
    order = jax.random.randint(draw, (STEPS, BATCH), 0, len(data.train))
    weights = _fit(weights, data.train, data.train_labels, order, function=function)
    accuracy, not_affine, jacobian = _ask(weights, data.test, data.test_labels, function=function)
    return Trained(float(accuracy), float(not_affine), int(np.linalg.matrix_rank(jacobian)))


@functools.partial(jax.jit, static_argnames="function")
def _ask(weights: dict[str, Array], x: Array, labels: Array, *, function: str) -> tuple[Array, Array, Array]:
    """Measures (accuracy, distance from an affine map, Jacobian of the logits at the first image)."""
    net = functools.partial(forward, weights, function=function)
    a, b, zero = x[::2], x[1::2], jnp.zeros_like(x[::2])
    bent = net(a + b) - net(a) - net(b) + net(zero)
    not_affine = jnp.sqrt(jnp.square(bent).mean() / jnp.square(net(a + b) - net(zero)).mean())
    return (net(x).argmax(1) == labels).mean(), not_affine, jax.jacobian(net)(x[0])


@functools.partial(jax.jit, static_argnames="function")
def _fit(
    weights: dict[str, Array], x: Array, labels: Array, order: Array, *, function: str
) -> dict[str, Array]:
    """Adam at a rate that falls to 0, on one batch for each row of `order`."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(weights: dict[str, Array], batch: Array) -> Array:
        logits = forward(weights, x[batch], function)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(carry: tuple, batch: Array) -> tuple[tuple, None]:
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights, batch), state)
        return (optax.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), order)
    return weights
