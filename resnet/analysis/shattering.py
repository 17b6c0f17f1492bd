"""How alike the gradients at different inputs are: with depth they shatter into white noise.

Measured is the gradient of a random combination of what leaves the last block, with respect to the
image; norms are constants (of a net at its start: from its images). Its cosine at two images is 1 for
every linear net and 0 for white noise; averaged over all pairs it has no bias. Along the straight line
between two images it falls with the distance. Theory for a layer of ReLU in each block, half of whose
units are active, independently at two inputs: 2^-L for plain nets, (3/4)^L with identity shortcuts;
with batch norm beside them it falls only as a root of L. A config is asked in four arms, plain and
residual, without norm and with batch norm; a run is asked as it is.
Source: Balduzzi 2017 (https://arxiv.org/abs/1702.08591), theorems 1 to 3.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.analysis import pictures
from resnet.analysis.options import Count, SomeCounts, Within, check_options
from resnet.analysis.settled import settled
from resnet.analysis.subject import Subject, at_depth, check_single_net
from resnet.errors import InputError
from resnet.models.chain import Part, joints, noise_like
from resnet.models.geometry import count_layers, layers_of_block

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Without a norm, what says how norms compute has no meaning.
_UNNORMED = {
    "model.norm": "none", "model.zero_gamma": False, "model.ghost_batch": 0, "model.bn_fixed": "",
    "model.gate_norm": False,
}  # fmt: skip
_NORMED = {"model.norm": "batch", "model.zero_gamma": False}  # gradients are to pass through branches
ARMS = {
    "plain": {"model.shortcut": "none", **_UNNORMED},
    "plain, batch norm": {"model.shortcut": "none", **_NORMED},
    "residual": {"model.shortcut": "identity", **_UNNORMED},
    "residual, batch norm": {"model.shortcut": "identity", **_NORMED},
}
SETS = ("model.depth", "model.blocks", *sorted(set.intersection(*map(set, ARMS.values()))))


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    depths: SomeCounts = (4, 10, 26, 50, 100)
    """Layers of the nets, each rounded to whole blocks; not for a run."""
    seeds: Count = 3
    """Nets at their start over which is averaged; not for a run."""
    points: Annotated[int, Within(2, 10_000)] = 33
    """Inputs on the line between the first two images."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class NetsByDepth:
    """One kind of net at each depth."""

    name: str
    layers: list[int]
    correlation: Float[np.ndarray, "depths seeds"]
    """Mean cosine between gradients at two images."""
    along: Float[np.ndarray, " points"]
    """Mean cosine on the line by distance, from 0 to the whole line; of the deepest net."""


@dataclasses.dataclass(frozen=True)
class Shattering:
    """One entry for each kind of net."""

    title: str
    arms: list[NetsByDepth]
    layers_of_block: int

    def tables(self) -> dict[str, list[dict]]:
        """Mean and standard deviation over the seeds."""
        rows = [
            {
                "net": arm.name,
                "layers": layers,
                "cosine of gradients": values.mean(),
                "deviation over seeds": values.std(ddof=1) if len(values) > 1 else None,
                "n": len(values),
            }
            for arm in self.arms
            for layers, values in zip(arm.layers, arm.correlation, strict=True)
        ]
        return {"Gradients at two images": rows}

    def plot(self) -> "Figure":
        """Correlation by depth, beside theory, and along a line."""
        figure, (depth, line) = pictures.panels(2)
        for i, arm in enumerate(self.arms):
            style = pictures.style(i)
            depth.plot(
                arm.layers, arm.correlation.mean(1), marker=pictures.MARKERS[i], label=arm.name, **style
            )
            for seed in arm.correlation.T:
                depth.plot(arm.layers, seed, linestyle="", marker=pictures.MARKERS[i], color=style["color"],
                           alpha=0.3, markersize=4)  # fmt: skip
            label = f"{arm.name}, {arm.layers[-1]} layers"
            line.plot(np.linspace(0, 1, len(arm.along)), arm.along, label=label, **style)
        asked = self.arms[0].layers
        if len(self.arms) > 1:  # theory is that of the start
            self._plot_theory(depth, np.arange(2, asked[-1] + 1))
        depth.set(xlabel="layers", ylabel="mean cosine", xscale="log", ylim=(-0.1, 1.05),
                  title="gradients at two images")  # fmt: skip
        line.set(xlabel="distance, over the length of the line", ylabel="mean cosine", ylim=(-0.55, 1.05),
                 title="gradients on a line between two images")  # fmt: skip
        depth.set_xticks(asked, [str(each) for each in asked])
        depth.set_xticks([], minor=True)
        for axes in (depth, line):
            axes.legend(frameon=False, fontsize=7)
        figure.suptitle(self.title, fontsize=11)
        return figure

    def _plot_theory(self, axes, layers: np.ndarray) -> None:
        axes.plot(layers, 2.0 ** -(layers - 2), color="grey", lw=0.8, label="theory, plain: 2⁻ᴸ")
        if self.layers_of_block == 1:
            residual = 0.75 ** (layers - 2)
            axes.plot(layers, residual, color="grey", lw=0.8, ls="--", label="theory, residual: (3/4)ᴸ")


def ask(subject: Subject, options: Options) -> Shattering:
    """Correlations in a run, or in the four arms of a config."""
    if len(subject.images) < 2:
        raise InputError("`--images` must be at least 2: gradients are compared at pairs of images")
    check_single_net(subject, options)
    layers = layers_of_block(subject.config.model)
    title = subject.title if subject.step is not None else f"{subject.name} at its start, four arms"
    if subject.step is not None:
        found, along = _measure(subject, options.points)
        depth = count_layers(subject.config.model, len(subject.parts()) - 2)
        arms = [NetsByDepth(subject.config.model.shortcut, [depth], np.array([[found]]), along)]
    else:
        arms = [_arm(subject, name, changes, options) for name, changes in ARMS.items()]
    return Shattering(title, arms, layers)


def _arm(subject: Subject, name: str, changes: dict, options: Options) -> NetsByDepth:
    """One kind of net at all depths, with all seeds."""
    depths, found, along = [], [], []
    for depth in options.depths:
        change = changes | at_depth(subject.config, depth)
        first = subject.config.seed
        nets = [subject.restarted(seed, change) for seed in range(first, first + options.seeds)]
        depths.append(count_layers(subject.config.model, sum(change["model.blocks"])))
        each = [_measure(net, options.points) for net in nets]
        found.append([correlation for correlation, _ in each])
        along = [values for _, values in each]
    return NetsByDepth(name, depths, np.array(found), np.mean(along, 0))


def _measure(subject: Subject, points: int) -> tuple[float, Float[np.ndarray, " points"]]:
    """(mean cosine over pairs of images, mean cosine by distance on a line) of one net."""
    chain = settled(subject).parts("running")[:-1]
    path = line(subject.images[0], subject.images[1], points)
    return mean_correlation(input_gradients(chain, subject.images)), autocorrelation(
        input_gradients(chain, path)
    )


def input_gradients(chain: Sequence[Part], images: Float[Array, "n h w c"]) -> Float[np.ndarray, "n d"]:
    """Directions (length 1) of the gradient at each image of one random combination of the chain's output.

    Each image's gradient is rescaled at each part, so that none leaves the range of float32; it is not a
    number at images where it is exactly 0, which has no direction.
    """
    *inputs, top = joints(chain, images)
    gradient = jnp.broadcast_to(noise_like(top[:1]), top.shape)
    for part, x in zip(reversed(chain), reversed(inputs), strict=True):
        gradient = part.pull(x, gradient)
        gradient = gradient / jnp.abs(gradient).max((1, 2, 3), keepdims=True)
    flat = np.asarray(gradient, np.float64).reshape(len(images), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def mean_correlation(directions: Float[np.ndarray, "n d"]) -> float:
    """Mean cosine over all pairs of different inputs that have one; NaN for fewer than two."""
    directions = directions[np.isfinite(directions).all(1)]
    n = len(directions)
    total = np.square(directions.sum(0)).sum() - np.square(directions).sum()
    return float(total / (n * (n - 1))) if n > 1 else float("nan")


def autocorrelation(directions: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Mean cosine of the gradients at inputs k steps apart on a line, k = 0 … n-1."""
    cosines = directions @ directions.T
    diagonals = (np.diagonal(cosines, k) for k in range(len(directions)))
    held = [values[np.isfinite(values)] for values in diagonals]
    return np.asarray([values.mean() if len(values) else np.nan for values in held])


def line(start: Array, end: Array, points: int) -> Float[Array, "points *shape"]:
    """Inputs from one image to another, evenly spaced."""
    t = jnp.linspace(0, 1, points).reshape(-1, *[1] * start.ndim)
    return (1 - t) * start[None] + t * end[None]
