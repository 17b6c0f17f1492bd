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

UNITS, STEPS, RATE = 64, 300, 3e-3


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
    distance_from_affine: float
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
    weights = {"hidden": layers(jax.random.key(seed), depth - 1, gain), "head": jnp.zeros((UNITS, 10))}
    weights = _fit(weights, data.train, data.train_labels, function=function)
    x, net = data.test, functools.partial(forward, weights, function=function)
    accuracy = float((net(x).argmax(1) == data.test_labels).mean())
    a, b, zero = x[::2], x[1::2], jnp.zeros_like(x[::2])
    bent = net(a + b) - net(a) - net(b) + net(zero)
    size = jnp.sqrt(jnp.square(net(a + b) - net(zero)).mean())
    rank = int(jnp.linalg.matrix_rank(jax.jacobian(net)(x[0])))
    return Trained(accuracy, float(jnp.sqrt(jnp.square(bent).mean()) / size), rank)


@functools.partial(jax.jit, static_argnames="function")
def _fit(weights: dict[str, Array], x: Array, labels: Array, *, function: str) -> dict[str, Array]:
    """STEPS steps of Adam on all images at once, at a rate that falls to 0."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))

    def loss(weights: dict[str, Array]) -> Array:
        logits = forward(weights, x, function)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        weights, state = carry
        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), length=STEPS)
    return weights
