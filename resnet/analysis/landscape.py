"""The loss along random directions from the weights, each filter's as long as the filter (Li 2018).

Definitions as in https://arxiv.org/abs/1712.09913, section 4: a normal direction is scaled, filter by
filter, to the length of the weights; parameters of one dimension (biases, norms) stay as they are; and
so do the running statistics, with which normalisation works as in evaluation.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float

from resnet.errors import InputError
from resnet.training.records import replacing


def filter_normalized(key: Array, params: Any) -> Any:
    """A random direction with the length of each filter, the weights into one output, of `params`."""
    leaves, structure = jax.tree.flatten(params)

    def one(key: Array, weights: Array) -> Array:
        if weights.ndim <= 1:
            return jnp.zeros_like(weights)
        inputs = tuple(range(weights.ndim - 1))
        drawn = jax.random.normal(key, weights.shape, weights.dtype)
        lengths = (jnp.sqrt(jnp.square(a).sum(inputs, keepdims=True)) for a in (weights, drawn))
        return drawn * jnp.divide(*lengths)

    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([one(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])


def grid(reach: float, points: int, dimensions: int) -> Float[np.ndarray, "n dimensions"]:
    """Coordinates from -reach to reach along each direction, `points` of them, the last one fastest."""
    axis = np.linspace(-reach, reach, points)
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)


def surface_losses(
    loss: Callable[[Any], Float[Array, ""]], params: Any, directions: list[Any]
) -> Callable[[np.ndarray], Float[np.ndarray, " k"]]:
    """Losses at coordinates [k, dimensions]: all in one program, one point after the other."""

    @jax.jit
    def at(params: Any, directions: list[Any], coordinates: Array) -> Array:
        def one(coordinate: Array) -> Array:
            def move(weights, *along):
                return weights + sum(c * d for c, d in zip(coordinate, along, strict=True))

            return loss(jax.tree.map(move, params, *directions))

        return jax.lax.map(one, coordinates)

    return lambda coordinates: np.asarray(at(params, directions, jnp.asarray(coordinates, jnp.float32)))


def evaluate_surface(
    losses_at: Callable[[np.ndarray], np.ndarray],
    coordinates: Float[np.ndarray, "n dimensions"],
    path: Path,
    identity: str,
    chunk: int,
) -> Float[np.ndarray, " n"]:
    """Losses at all coordinates, `chunk` at a time; what is known lies in `path` (.npz) after each chunk.

    A second call goes on where the first one stopped. `identity` says which surface it is: InputError
    if the file holds another one.
    """
    losses = _known(path, coordinates, identity)
    while len(losses) < len(coordinates):
        more = losses_at(coordinates[len(losses) : len(losses) + chunk])
        losses = np.concatenate([losses, more])
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, losses=losses, coordinates=coordinates, identity=np.array(identity))
        logging.info("loss surface: %d of %d points", len(losses), len(coordinates))
    return losses


def _known(path: Path, coordinates: np.ndarray, identity: str) -> Float[np.ndarray, " k"]:
    """The losses in `path`, of the first k coordinates; none if there is no such file."""
    if not path.exists():
        return np.zeros(0, np.float32)
    try:
        with np.load(path) as kept:
            same = str(kept["identity"]) == identity and np.array_equal(kept["coordinates"], coordinates)
            losses = kept["losses"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is unreadable: {error}; delete it to start anew") from None
    if not same:
        raise InputError(f"{path} holds another surface; delete it, or choose another output folder")
    return losses
