"""The gradient that comes through paths of each length, and how many paths carry it.

A net of n blocks is a sum over 2^n paths: at each block through F or past it. The images go up the
whole net once. On the way down, k blocks drawn at random pass the gradient through F alone and the
others through the shortcut alone: the gradient of a single path of length k, at the stem's output. Its
root mean square, averaged over draws, times the n-choose-k paths of that length, is the weight of the
length (without the cancellation between paths). The effective lengths are the fewest neighbouring ones
that carry 95 % of the weight. The gradient starts from the loss, or as normal values for noise.
Source: Veit 2016 (https://arxiv.org/abs/1605.06431), section 5: 1,000 draws for each length.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import numpy as np
import scipy.special
from jaxtyping import Array

from resnet.analysis import pictures
from resnet.analysis.options import Count, check_options
from resnet.analysis.subject import NOISE, Subject
from resnet.errors import InputError
from resnet.models.chain import Part, joints, noise_like, rms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARRIED = 0.95


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    draws: Count = 10
    """Random paths of each length."""
    statistics: str = "batch"
    """What batch norms use: batch, as in training, or running."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class Paths:
    """By length, from 0 to the number of blocks; base-ten logarithms."""

    title: str
    draws: np.ndarray
    """Root mean square of the gradient through single paths, [lengths, draws]."""
    count: np.ndarray
    """How many paths have the length."""
    weight: np.ndarray
    """Share of the whole weight, itself no logarithm."""
    effective: tuple[int, int]
    """The shortest and the longest of the effective lengths."""
    share_of_paths: float
    """Those that have an effective length, of all paths."""

    def tables(self) -> dict[str, list[dict]]:
        """The effective lengths, and every length."""
        lengths = range(len(self.weight))
        return {
            f"Lengths that carry {CARRIED:.0%} of the gradient": [
                {
                    "blocks": len(self.weight) - 1,
                    "shortest": self.effective[0],
                    "longest": self.effective[1],
                    "share of all paths": self.share_of_paths,
                    "mean length, by weight": float((self.weight * np.arange(len(self.weight))).sum()),
                    "mean length, by number": (len(self.weight) - 1) / 2,
                }
            ],
            "Every length (log10)": [
                {"length": k, "paths": self.count[k], "gradient of a path": _log_mean(self.draws[k]),
                 "share of the weight": self.weight[k]}
                for k in lengths
            ],
        }  # fmt: skip

    def plot(self) -> "Figure":
        """Number of paths, gradient of single paths, and their product, against length."""
        figure, (number, single, product) = pictures.panels(3)
        lengths = np.arange(len(self.weight))
        color = pictures.COLORS[0]
        number.plot(lengths, scipy.special.exp10(self.count - self.count.max()), color=color)
        number.set(ylabel="number of paths, most frequent length = 1", title="paths of each length")
        single.plot(lengths, self.draws, ".", color=color, ms=3, alpha=0.5)
        single.plot(
            lengths, [_log_mean(draws) for draws in self.draws], color=pictures.COLORS[1], label="mean"
        )
        single.set(ylabel="log10 of the root mean square", title="gradient of single paths (dots)")
        single.legend(frameon=False)
        product.bar(lengths, self.weight, color=color, width=0.8)
        low, high = self.effective
        product.axvspan(low - 0.5, high + 0.5, color=pictures.COLORS[5], alpha=0.25, zorder=0,
                        label=f"{CARRIED:.0%} of the weight")  # fmt: skip
        product.set(ylabel="share of the weight", title="their product")
        product.legend(frameon=False)
        for axes in (number, single, product):
            axes.set_xlabel("length of path (branches passed)")
        figure.suptitle(self.title, fontsize=11)
        return figure


def ask(subject: Subject, options: Options) -> Paths:
    """Samples paths of every length."""
    if subject.config.model.shortcut == "none":
        raise InputError(f"{subject.name} is a plain net, which has one path; ask a net with a shortcut")
    stem, *blocks, head = subject.parts(options.statistics)
    signal = joints(blocks, stem(subject.images))
    if subject.data == NOISE:
        top = noise_like(signal[-1])
    else:
        top = jax.grad(lambda x: subject.losses(head(x)).mean())(signal[-1])
    rng, n = np.random.default_rng(0), len(blocks)
    scales = []
    for length in range(n + 1):
        chosen = [set(rng.choice(n, length, replace=False).tolist()) for _ in range(options.draws)]
        scales.append(jax.device_get([_along(blocks, signal, top, through) for through in chosen]))
    return weigh_paths(subject.name, np.array(scales, np.float64) / math.log(10))


def weigh_paths(title: str, draws: np.ndarray) -> Paths:
    """Weights and effective lengths from log10 of the gradients of single paths, [lengths, draws]."""
    n = len(draws) - 1
    k = np.arange(n + 1)
    gammaln = scipy.special.gammaln
    count = (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / math.log(10)
    total = count + np.array([_log_mean(each) for each in draws])
    if not np.isfinite(total).any():
        raise InputError(f"{title}: no gradient of a finite size reaches the stem, by any path; give "
                         "--data=noise, or another step")  # fmt: skip
    weight = scipy.special.exp10(total - total.max())
    weight = weight / weight.sum()
    windows = [
        (high - low, low, high) for low in k for high in k[low:] if weight[low : high + 1].sum() >= CARRIED
    ]
    _, low, high = min(windows)
    share = scipy.special.exp10(count[low : high + 1] - n * math.log10(2)).sum()
    return Paths(title, draws, count, weight, (int(low), int(high)), float(share))


def _along(blocks: list[Part], signal: list[Array], gradient: Array, through: set[int]) -> Array:
    """Logarithm of the scale of the gradient along one path, at the first joint."""
    log = np.float32(0)
    for i in reversed(range(len(blocks))):
        gradient, log = _normalised(gradient, log)
        gradient = blocks[i].pull_through(signal[i], gradient, branch=i in through)
    return _normalised(gradient, log)[1]


@jax.jit
def _normalised(gradient: Array, log: Array) -> tuple[Array, Array]:
    """(the gradient at scale 1, log plus that of its scale); a gradient of 0 stays so, at minus infinity."""
    scale = rms(gradient)
    return gradient / jax.numpy.where(scale > 0, scale, 1), log + jax.numpy.log(scale)


def _log_mean(logs: np.ndarray) -> float:
    """log10 of the mean of 10^logs."""
    finite = logs[np.isfinite(logs)]
    if not len(finite):
        return -math.inf
    return float(finite.max() + np.log10(scipy.special.exp10(finite - finite.max()).sum() / len(logs)))
