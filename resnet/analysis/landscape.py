"""The loss along random directions from the weights, each filter's as long as the filter.

A normal direction is scaled, filter by filter, to the length of the weights; parameters of one dimension
(biases, norms) stay as they are. At every point norms use the running statistics of the net itself, which
are not computed anew. The loss is the mean over the images, without weight decay. Points that are known
are kept in a file of their own, and a rerun goes on from there.
Source: Li 2018 (https://arxiv.org/abs/1712.09913), section 4.
"""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from absl import logging
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.kept import key
from resnet.analysis.options import Count, Seed, Within, check_options
from resnet.analysis.settled import batches, logits_of, loss_of, settled
from resnet.analysis.subject import Subject
from resnet.errors import InputError
from resnet.files import local_path, make_folder, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Losses are drawn between these: far from the weights they leave the range of numbers.
LOWEST, HIGHEST = 1e-4, 1e4


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    dimensions: Annotated[int, Within(1, 2)] = 2
    """Directions: 1 (a curve) or 2 (a surface)."""
    points: Annotated[int, Within(2, 1_001)] = 21
    """Points along each direction; an odd number has the weights themselves in the middle."""
    reach: Annotated[float, Within(1e-6, 1e6)] = 1.0
    """How far along each direction, in lengths of the filters."""
    direction_seed: Seed = 0
    """Seed of the directions."""
    points_per_call: Count = 16
    """Points evaluated, and kept, at a time."""
    kept: str = "runs/landscapes"
    """Folder in which known points are kept, a file for each surface; it can be deleted afterwards."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class Landscape:
    """Losses on a grid around the weights."""

    title: str
    axis: Float[np.ndarray, " points"]
    """Coordinates along each direction."""
    losses: Float[np.ndarray, "..."]
    """[points] or [points, points]; rows along the first direction."""

    def tables(self) -> dict[str, list[dict]]:
        """The loss at the weights, around them, and how rugged it is."""
        finite = self.losses[np.isfinite(self.losses)]
        middle = (len(self.axis) // 2,) * self.losses.ndim
        row = {
            "at the weights": self.losses[middle] if len(self.axis) % 2 else None,
            "lowest": finite.min() if finite.size else None,
            "median": np.median(finite) if finite.size else None,
            "highest": finite.max() if finite.size else None,
            "local minima": minima(self.losses),
            "points": self.losses.size,
            "not finite": self.losses.size - finite.size,
        }
        return {"Loss on the grid": [row]}

    def plot(self) -> "Figure":
        """The curve; or contours and the surface in three dimensions, both of the logarithm."""
        shown = np.log10(np.clip(np.nan_to_num(self.losses, nan=HIGHEST, posinf=HIGHEST), LOWEST, HIGHEST))
        if self.losses.ndim == 1:
            figure, (axes,) = pictures.panels(1, width=6)
            axes.plot(self.axis, 10**shown, marker=".", **pictures.style(0))
            axes.set(xlabel="step along a random direction (lengths of the filters)", ylabel="loss (nats)",
                     yscale="log", title=self.title)  # fmt: skip
            return figure
        figure, (flat, _) = pictures.panels(2, width=5.2, height=4.2)
        x, y = np.meshgrid(self.axis, self.axis, indexing="ij")
        filled = flat.contourf(x, y, shown, levels=24, cmap="cividis")
        lines = flat.contour(x, y, shown, levels=8, colors="white", linewidths=0.7)
        flat.clabel(lines, fontsize=7)
        flat.plot(0, 0, "+", color=pictures.COLORS[1], markersize=10)
        flat.set(xlabel="along direction 1 (lengths of the filters)", ylabel="along direction 2",
                 title="+: the weights", aspect="equal")  # fmt: skip
        figure.colorbar(filled, ax=flat, label="log10 of the loss (nats)")
        figure.delaxes(figure.axes[1])
        high = figure.add_subplot(1, 2, 2, projection="3d")
        high.plot_surface(x, y, shown, cmap="cividis", rcount=60, ccount=60)
        high.set(xlabel="direction 1", ylabel="direction 2", zlabel="log10 of the loss (nats)")
        figure.suptitle(self.title, fontsize=11)
        return figure


def ask(subject: Subject, options: Options) -> Landscape:
    """The surface around a net's weights."""
    net = settled(subject)
    params, (images, labels) = net.variables["params"], batches(net)
    logits, loss = logits_of(net), loss_of(net)

    def mean_loss(params: Any) -> Float[Array, ""]:
        return jax.lax.map(lambda batch: loss(logits(params, batch[0]), batch[1]), (images, labels)).mean()

    keys = jax.random.split(jax.random.key(options.direction_seed), options.dimensions)
    directions = [filter_normalized(key, params) for key in keys]
    coordinates = grid(options.reach, options.points, options.dimensions)
    shape = (options.points,) * options.dimensions
    chosen = {name: getattr(options, name) for name in ("dimensions", "points", "reach", "direction_seed")}
    identity = key(net, "landscape", **chosen)
    path = make_folder(local_path(options.kept)) / f"{identity[:16]}.npz"
    losses = evaluate_surface(
        surface_losses(mean_loss, params, directions), coordinates, path, identity, options.points_per_call
    )  # fmt: skip
    return Landscape(subject.title, grid(options.reach, options.points, 1)[:, 0], losses.reshape(shape))


def minima(losses: Float[np.ndarray, "..."]) -> int:
    """Points inside the grid that lie below all their neighbours, diagonal ones too."""
    filled = np.where(np.isfinite(losses), losses, np.inf)
    lowest = scipy.ndimage.minimum_filter(filled, size=3)
    inside = (slice(1, -1),) * losses.ndim
    return int(((filled == lowest) & np.isfinite(filled))[inside].sum())


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
    """Losses at all coordinates, `chunk` at a time; each chunk is saved to `path` (.npz) when it is done.

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
        with np.load(path, allow_pickle=False) as kept:
            same = str(kept["identity"]) == identity and np.array_equal(kept["coordinates"], coordinates)
            losses = kept["losses"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is unreadable: {error}; delete it to start anew") from None
    if not same:
        raise InputError(f"{path} holds another surface; delete it, or choose another folder by --kept")
    return losses
