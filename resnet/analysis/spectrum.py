"""Singular values of Jacobians: of every block, of the chain of blocks up to each, and of the whole net.

A Jacobian is that of one image: norms use constants, the running statistics, or for a net at its start
those of its images. Only products with it and with its transpose are taken. The condition number is
the largest singular value over the smallest; below 1e-6 of the largest a value is round-off. With fewer
steps than the smaller space has dimensions the smallest value is an upper bound, and the condition
number a lower one. A net passes gradients faithfully where all values are near 1.
Source: Saxe 2014 (https://arxiv.org/abs/1312.6120) and Pennington 2017
(https://arxiv.org/abs/1711.04735) for dynamical isometry; Golub and Kahan 1965 for the iteration.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.krylov import ROUND_OFF, Ritz, golub_kahan
from resnet.analysis.options import Count, check_options
from resnet.analysis.settled import settled
from resnet.analysis.subject import Subject
from resnet.models.chain import Part, joints

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    jacobians: Count = 4
    """Images at which Jacobians are taken, of those looked at."""
    steps: Count = 64
    """Products in each direction; as many as a layer has values give every singular value."""
    chains: Count = 10
    """Depths at which the chain of blocks is cut, from one block to all."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True)
class Values:
    """Singular values of one map: medians over the images; the condition number is the largest one."""

    name: str
    largest: float
    rms: float
    median: float
    smallest: float
    condition: float
    complete: bool
    """Whether all singular values were found, for all images; else `smallest` is an upper bound."""

    @classmethod
    def of(cls, name: str, found: Sequence[Ritz]) -> "Values":
        """The summary of one map at several images."""
        ends = np.array([(ritz.values[-1], ritz.values[0], ritz.errors[0]) for ritz in found])
        largest, smallest, error = ends.T
        # A map to 0, as from a head that starts at 0, has no smaller value than its largest.
        alive = largest.all()
        condition = (largest / np.maximum(smallest, ROUND_OFF * largest)).max() if alive else math.inf
        largest, smallest = np.median(largest), np.median(smallest)
        return cls(
            name, float(largest), float(np.median([ritz.mean(2) ** 0.5 for ritz in found])),
            float(np.median([ritz.quantile(0.5) for ritz in found])), float(smallest), float(condition),
            bool((error <= ROUND_OFF * ends[:, 0]).all()),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Each block, the chains from the first block to each, and the net from image to logits."""

    title: str
    images: str
    """At which Jacobians were taken."""
    blocks: list[Values]
    chains: list[Values]
    lengths: list[int]
    """Blocks in each chain."""
    net: Values

    def tables(self) -> dict[str, list[dict]]:
        """One row a map."""
        return {
            f"From image to logits, at {self.images}": [_row(self.net)],
            "Chains of blocks, from the first one": [
                {"blocks": length} | _row(values)
                for length, values in zip(self.lengths, self.chains, strict=True)
            ],
            "Every block": [_row(values) for values in self.blocks],
        }

    def plot(self) -> "Figure":
        """The range of the values by block and by length of the chain, and the condition number."""
        figure, (each, chain, condition) = pictures.panels(3)
        places = np.arange(1, len(self.blocks) + 1)
        for axes, x, values in ((each, places, self.blocks), (chain, self.lengths, self.chains)):
            _range(axes, np.asarray(x), values)
        each.set(xlabel="residual block", ylabel="singular value", title="Jacobian of each block")
        chain.set(xlabel="blocks in the chain", ylabel="singular value", title="Jacobian of the first blocks")
        ratios = [min(v.largest / max(v.median, 1e-30), 1 / ROUND_OFF) for v in self.chains]
        for i, (label, values) in enumerate(
            {"the smallest found": [v.condition for v in self.chains], "the median": ratios}.items()
        ):
            condition.plot(
                self.lengths, values, marker="o", label=f"largest over {label}", **pictures.style(i)
            )
        condition.axhline(1 / ROUND_OFF, color="grey", linestyle=":", label="round-off: at least this")
        condition.set(xlabel="blocks in the chain", ylabel="ratio of singular values", yscale="log",
                      title="condition number")  # fmt: skip
        for axes in (each, condition):
            axes.legend(frameon=False, fontsize=8)
        figure.suptitle(self.title, fontsize=11)
        return figure


def ask(subject: Subject, options: Options) -> Spectrum:
    """The singular values in a net."""
    net = settled(subject).first(options.jacobians)
    parts, rng = net.parts("running"), np.random.default_rng(0)
    signal = joints(parts, net.images)

    def values(name: str, first: int, last: int) -> Values:
        return Values.of(
            name, singular_values(parts[first:last], signal[first : last + 1], options.steps, rng)
        )

    blocks = len(parts) - 2
    lengths = np.unique(np.geomspace(1, blocks, min(options.chains, blocks)).round().astype(int)).tolist()
    return Spectrum(
        title=subject.title,
        images=str(net.sample),
        blocks=[values(part.name, i, i + 1) for i, part in enumerate(parts) if part.arrays is not None],
        chains=[values(f"to {parts[length].name}", 1, length + 1) for length in lengths],
        lengths=lengths,
        net=values("image to logits", 0, len(parts)),
    )


def singular_values(
    chain: Sequence[Part], signal: Sequence[Array], steps: int, rng: np.random.Generator
) -> list[Ritz]:
    """Singular values of the Jacobian of a chain at each image.

    `signal`: the input [n, ...] and the output of each part. All values come from as many steps as the
    smaller of the two spaces has dimensions.
    """
    x, y = signal[0], signal[-1]
    links = list(zip(chain, signal[:-1], strict=True))

    def forward(v: Float[np.ndarray, "n d"]) -> np.ndarray:
        tangent = jnp.asarray(v.reshape(x.shape), x.dtype)
        for part, joint in links:
            tangent = part.push(joint, tangent)
        return _flat(tangent)

    def backward(u: Float[np.ndarray, "n e"]) -> np.ndarray:
        gradient = jnp.asarray(u.reshape(y.shape), y.dtype)
        for part, joint in reversed(links):
            gradient = part.pull(joint, gradient)
        return _flat(gradient)

    inputs, outputs = x[0].size, y[0].size
    starts = rng.normal(size=(len(x), min(inputs, outputs)))
    steps = min(steps, inputs, outputs)
    if outputs < inputs:  # The transpose has the same values, and fewer zeros beside them.
        return golub_kahan(backward, forward, starts, steps)
    return golub_kahan(forward, backward, starts, steps)


def _flat(x: Array) -> Float[np.ndarray, "n d"]:
    return np.asarray(x, np.float32).reshape(len(x), -1)


def _row(values: Values) -> dict:
    zero = values.smallest <= ROUND_OFF * values.largest
    bound = "" if values.complete else "≤ "
    least = "" if values.complete and values.condition < 1 / ROUND_OFF else "≥ "
    return {
        "map": values.name,
        "largest": values.largest,
        "rms": values.rms,
        "median": values.median,
        "smallest": "0 to round-off" if zero else f"{bound}{values.smallest:.3g}",
        "condition": f"{least}{values.condition:.3g}" if math.isfinite(values.condition) else "infinite",
    }


def _range(axes, x: np.ndarray, values: list[Values]) -> None:
    """A band from the smallest to the largest value, with the median and the root mean square."""
    floor = min(v.largest for v in values) * ROUND_OFF
    low, high = ([max(getattr(v, name), floor) for v in values] for name in ("smallest", "largest"))
    axes.fill_between(x, low, high, color=pictures.COLORS[4], alpha=0.3, linewidth=0, label="range")
    axes.plot(x, high, marker=".", label="largest", **pictures.style(0))
    axes.plot(x, [v.rms for v in values], label="root mean square", **pictures.style(1))
    median = [max(v.median, floor) for v in values]
    axes.plot(x, median, label="median", **pictures.style(3))
    axes.plot(x, low, marker=".", label="smallest found", **pictures.style(2))
    axes.set_yscale("log")
