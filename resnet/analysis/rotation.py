"""How far each block turns x, how much of F(x) lies across x, and how many blocks share the work.

The angle of a block is that between its input x and its output y, as vectors of all pixels and channels of an
image, in the mean over images. F(x) is compared with x in the same way, and again within each pixel, where
only the channels count: the mean absolute cosine there is about sqrt(2 / (pi C)) for directions in C channels
that have nothing to do with each other. The effective depth is the participation number (sum a)^2 / sum a^2
of the angles a: all L blocks if each turns x as far, one if one block does all. Blocks that change the
shape have no angle, and are left out.
Source: Oh 2025 (https://arxiv.org/abs/2505.11881) for F(x) along and across x; Veit 2016
(https://arxiv.org/abs/1605.06431) for the question how deep a residual net really is. The participation
number is a choice of ours.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.settled import settled
from resnet.analysis.subject import Subject, none_keeps_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    statistics: str = "running"
    """What batch norms use: batch, as in training, or running."""
    against: str = ""
    """Folder of a second run to compare with, such as the plain twin. The latest step of that run is used."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rotation:
    """One net: a value for each block that keeps the shape, from bottom to top."""

    name: str
    blocks: list[str]
    angle: Float[np.ndarray, " blocks"]
    """Between x and y, in degrees."""
    change: Float[np.ndarray, " blocks"]
    """|y - x| over |x|."""
    cosine: Float[np.ndarray, " blocks"]
    """Between x and F(x), over pixels and channels."""
    in_pixels: Float[np.ndarray, " blocks"]
    """Mean absolute cosine between x and F(x) within a pixel."""

    @property
    def effective_depth(self) -> float:
        """How many blocks share the turning of x: all, if each turns it as far; one, if one does all."""
        return float(self.angle.sum() ** 2 / np.square(self.angle).sum()) if self.angle.any() else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Rotations:
    """The net, and the one to compare it with."""

    nets: list[Rotation]

    def tables(self) -> dict[str, list[dict]]:
        """A summary, and every block."""
        summary = [
            {
                "net": net.name,
                "blocks": len(net.blocks),
                "effective depth (blocks)": net.effective_depth,
                "angles together (degrees)": float(net.angle.sum()),
                "cosine(x, F(x)), mean": float(net.cosine.mean()),
                "within pixels, mean absolute": float(net.in_pixels.mean()),
            }
            for net in self.nets
        ]
        every = [
            {
                "net": net.name,
                "block": name,
                "angle (degrees)": net.angle[i],
                "|y - x| / |x|": net.change[i],
                "cosine(x, F(x))": net.cosine[i],
                "within pixels": net.in_pixels[i],
            }
            for net in self.nets
            for i, name in enumerate(net.blocks)
        ]
        return {"How far x is turned": summary, "Every block": every}

    def plot(self) -> "Figure":
        """Angles, and cosines between x and F(x), by block."""
        figure, (angles, cosines, pixels) = pictures.panels(3)
        for i, net in enumerate(self.nets):
            numbers, label = np.arange(1, len(net.blocks) + 1), f"net {net.name}"
            for axes, values in ((angles, net.angle), (cosines, net.cosine), (pixels, net.in_pixels)):
                axes.plot(numbers, values, marker="o", ms=3, label=label, **pictures.style(i))
        angles.set(ylabel="angle between x and y (degrees)", ylim=(0, None))
        cosines.set(ylabel="cosine between x and F(x)")
        pixels.set(ylabel="absolute cosine within a pixel", ylim=(0, None))
        for axes in (angles, cosines, pixels):
            axes.set(xlabel="block that keeps the shape, from the stem up")
        pictures.legend_below(figure, angles)
        return figure


def ask(subject: Subject, options: Options) -> Rotations:
    """Angles and cosines of the net, and of the one to compare it with."""
    return Rotations([_rotation(each, options.statistics) for each in subject.and_against(options.against)])


def _rotation(subject: Subject, statistics: str) -> Rotation:
    stem, *blocks, _ = settled(subject).parts(statistics)
    x, names, found = stem(subject.images), [], []
    for block in blocks:
        y, shown = block.open(x)
        if x.shape == y.shape == shown["branch"].shape:
            names.append(block.name)
            found.append(_measured(x, y, shown["branch"]))
        x = y
    if not names:
        raise none_keeps_shape(subject)
    angle, change, cosine, in_pixels = np.array(jax.device_get(found), np.float64).T
    return Rotation(subject.name, names, angle, change, cosine, in_pixels)


@jax.jit
def _measured(x: Array, y: Array, branch: Array) -> tuple[Array, Array, Array, Array]:
    """(angle in degrees, |y - x| / |x|, cosine of x and F(x), the same within pixels), means over images."""
    x, y, branch = (v.astype(jnp.float32) for v in (x, y, branch))
    image = (1, 2, 3)
    change = jnp.sqrt(_product(y - x, y - x, image) / _product(x, x, image))
    # By the half angle: the arc cosine of a cosine near 1 loses all digits of a small angle.
    a, b = (v / jnp.sqrt(_product(v, v, image))[:, None, None, None] for v in (x, y))
    half = jnp.arctan2(jnp.sqrt(_product(a - b, a - b, image)), jnp.sqrt(_product(a + b, a + b, image)))
    angle = 2 * half * 180 / math.pi
    pixels = jnp.abs(_cosine(x, branch, (3,)))
    return angle.mean(), change.mean(), _cosine(x, branch, image).mean(), jnp.nanmean(pixels)


def _product(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    return (a * b).sum(axes)


def _cosine(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    """NaN where one of the two is 0."""
    return _product(a, b, axes) / jnp.sqrt(_product(a, a, axes) * _product(b, b, axes))
