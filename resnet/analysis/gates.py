"""How open the gates are, over images and over training.

Of a gate, its output g = sigmoid(…): in exclusive gating and highway nets the weight of F(x), the
shortcut's being 1 - g; in shortcut-only gating the shortcut's is 1 - g and F(x) is added whole. The
mean over pixels and channels is taken of each image. Of shortcuts that scale F(x) by a learned number
(ReZero, SkipInit, Fixup, normaliser-free) that number takes the gate's place, the same for every image; of
LayerScale, the mean of its numbers.
A run is looked at at all its checkpoints, so keep many (config.checkpoint.keep).
Source: Srivastava 2015, Highway networks (https://arxiv.org/abs/1505.00387), Fig. 2; He 2016
(https://arxiv.org/abs/1603.05027), section 3.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from resnet.analysis import pictures
from resnet.analysis.settled import settled
from resnet.analysis.subject import Subject
from resnet.errors import InputError
from resnet.runs.checkpoints.checkpoint import steps_on_disk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPENING = "shortcut/opening"
MULTIPLIERS = ("alpha", "scale", "gain", "lambda")
# Lines in the picture; the JSON file has all steps.
SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    over_training: bool = True
    """Whether every checkpoint of a run is looked at, or one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Moment:
    """All gates at one step, by block: mean, lowest and highest over images; equal where a gate ignores x."""

    step: int
    mean: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray


@dataclasses.dataclass(frozen=True)
class Gates:
    """The gates by block, from first to last step."""

    title: str
    blocks: list[str]
    moments: list[Moment]

    def tables(self) -> dict[str, list[dict]]:
        """Every gate at the last step, beside its mean at the first."""
        first, last = self.moments[0], self.moments[-1]
        return {
            f"Opening at step {last.step}, over images": [
                {
                    "block": name,
                    "mean": float(last.mean[i]),
                    "lowest": float(last.lowest[i]),
                    "highest": float(last.highest[i]),
                    f"mean at step {first.step}": float(first.mean[i]),
                }
                for i, name in enumerate(self.blocks)
            ]
        }

    def plot(self) -> "Figure":
        """Means against blocks, a line for each of a few steps, the spread over images at the last one."""
        figure, (axes,) = pictures.panels(1, width=7)
        numbers = np.arange(1, len(self.blocks) + 1)
        shown = np.unique(np.linspace(0, len(self.moments) - 1, SHOWN).round().astype(int))
        for i, moment in enumerate(self.moments[k] for k in shown):
            axes.plot(numbers, moment.mean, label=f"step {moment.step}", **pictures.style(i))
        last, color = self.moments[-1], pictures.style(len(shown) - 1)["color"]
        band = "lowest to highest of the images"
        axes.fill_between(numbers, last.lowest, last.highest, color=color, alpha=0.2, label=band)
        axes.set(xlabel="residual block", ylabel="opening of the gate", title=self.title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        pictures.legend_below(figure, axes)
        return figure


def ask(subject: Subject, options: Options) -> Gates:
    """The gates of the net; of a run, at its checkpoints up to the one asked."""
    names, now = openings(subject)
    if not names:
        raise InputError(
            f"shortcut {subject.config.model.shortcut!r} has no gate, and no parameter that multiplies F(x); "
            "exclusive_gating, shortcut_only_gating, highway, rezero, skipinit, fixup, normalizer_free and "
            "layer_scale do"
        )
    found = {subject.step or 0: now}
    if subject.step is not None and options.over_training:
        workdir = Path(subject.name)
        earlier = [step for step in sorted(steps_on_disk(workdir)) if step < subject.step]
        found = {step: openings(subject.beside(workdir, step))[1] for step in earlier} | found
    moments = [_moment(step, values) for step, values in found.items()]
    return Gates(f"{subject.name}, shortcut {subject.config.model.shortcut}", names, moments)


def openings(subject: Subject) -> tuple[list[str], np.ndarray]:
    """(blocks with a gate, its opening [images, blocks]); batch norms use running statistics."""
    x, found = subject.images, {}
    for part in settled(subject).parts()[:-1]:
        x, inside = part.open(x)
        parameters = part.variables["params"].get("shortcut", {})
        numbers = [parameters[name] for name in MULTIPLIERS if name in parameters]
        if OPENING in inside:
            found[part.name] = inside[OPENING].mean((1, 2, 3))
        elif numbers:
            found[part.name] = numbers[0].mean()[None]
    values = jax.device_get([*found.values()])
    return list(found), np.stack(values, axis=1) if values else np.zeros((0, 0))


def _moment(step: int, found: np.ndarray) -> Moment:
    """The openings [images, blocks] of one step in three numbers a block."""
    return Moment(step, found.mean(0), found.min(0), found.max(0))
