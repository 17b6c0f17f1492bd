"""What is lost when blocks are deleted, or change places, in a net that is not trained for it.

A block with a shortcut is deleted by giving zeros for F(x). A block of a plain net has nothing but F: it is
deleted by handing its input on, if it keeps the shape. Deleted are each block alone, and k blocks that keep
the shape, drawn at random. k random pairs of blocks of one shape change places; Kendall's tau of the order
measures the disorder (1: as trained).
The error is one minus top-1 accuracy; for regression, the mean loss. Batch norms use running statistics.
Source: Veit 2016, Residual networks behave like ensembles of relatively shallow networks
(https://arxiv.org/abs/1605.06431), sections 4.1 to 4.3; it deletes by zeroing F(x).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array

from resnet.analysis import pictures
from resnet.analysis.options import Count, Counts, check_options
from resnet.analysis.subject import Subject
from resnet.errors import InputError
from resnet.models.chain import Part
from resnet.training.losses import example_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Link = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    counts: Counts = (1, 2, 4, 8, 16)
    """Numbers of blocks deleted together, and of pairs that change places."""
    draws: Count = 10
    """Random draws for each number."""
    against: str = ""
    """Folder of a second run to compare with, such as the plain twin. The latest step of that run is used."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True)
class Draw:
    """One random lesion."""

    count: int
    error: float
    tau: float = 1.0


@dataclasses.dataclass(frozen=True)
class DamagedNet:
    """One net with lesions."""

    name: str
    intact: float
    """Error of the whole net."""
    deleted: dict[str, float]
    """Error without each block that can be deleted, by its name."""
    numbers: list[int]
    """The numbers of these blocks in the net, from 1."""
    several: list[Draw]
    swapped: list[Draw]


@dataclasses.dataclass(frozen=True)
class Lesion:
    """The answer: the errors of a net with damaged blocks, and those of the net that it is compared with."""

    measure: str
    nets: list[DamagedNet]

    def tables(self) -> dict[str, list[dict]]:
        """Single blocks in one table, draws in the other."""
        return {
            f"{self.measure} without one block": [_single(net) for net in self.nets],
            f"{self.measure} after random lesions, median (lowest to highest)": [
                row for net in self.nets for row in _several(net)
            ],
        }

    def plot(self) -> "Figure":
        """Single deletions by block, random ones by number, swaps by disorder."""
        figure, (single, several, swapped) = pictures.panels(3)
        for i, net in enumerate(self.nets):
            style, dots = pictures.style(i), {"color": pictures.COLORS[i], "marker": pictures.MARKERS[i]}
            single.plot(net.numbers, [*net.deleted.values()], label=f"net {net.name}", **dots, ls="", ms=4)
            single.axhline(net.intact, lw=0.8, **style)
            counts = sorted({draw.count for draw in net.several})
            errors = [[d.error for d in net.several if d.count == count] for count in counts]
            several.plot(
                counts, [np.median(e) for e in errors], label=f"net {net.name}", **style, marker="o", ms=3
            )
            several.fill_between(
                counts, [min(e) for e in errors], [max(e) for e in errors], color=style["color"], alpha=0.2
            )
            pairs = [(d.tau, d.error) for d in net.swapped]
            swapped.plot(
                *zip(*pairs, strict=True), label=f"net {net.name}", **dots, ls="", ms=4
            ) if pairs else None
        single.set(xlabel="number of the deleted block", title="one block deleted (lines: none)")
        several.set(xlabel="blocks deleted at random", title="several (median, lowest to highest)")
        swapped.set(xlabel="Kendall's tau to the trained order", title="blocks of one shape swapped")
        for axes in (single, several, swapped):
            axes.set_ylabel(self.measure)
        several.xaxis.get_major_locator().set_params(integer=True)
        pictures.legend_below(figure, single)
        return figure


def ask(subject: Subject, options: Options) -> Lesion:
    """Lesions of the net, and of the one to compare it with."""
    classes = jnp.issubdtype(subject.labels.dtype, jnp.integer)
    measure = "error (1 - top-1 accuracy)" if classes else "mean loss"
    return Lesion(measure, [_lesions(each, options) for each in subject.and_against(options.against)])


def error(subject: Subject, logits: Array) -> float:
    """One minus top-1 accuracy, or the mean loss of a regression."""
    if jnp.issubdtype(subject.labels.dtype, jnp.integer):
        return 1 - float(example_scores(logits, subject.labels, 1.0)["top1"].mean())
    return float(subject.losses(logits).mean())


def without(part: Part, plain: bool) -> Link | None:
    """The block with its branch deleted; None if nothing would be left of it."""
    if not plain:
        return lambda x: part.join(x, jnp.zeros(jax.eval_shape(part.branch, x).shape, x.dtype))
    return (lambda x: x) if part.regular else None


def _lesions(subject: Subject, options: Options) -> DamagedNet:
    stem, *blocks, head = subject.parts()
    plain = subject.config.model.shortcut == "none"
    cut = [without(block, plain) for block in blocks]
    inputs = [stem(subject.images)]
    for block in blocks:
        inputs.append(block(inputs[-1]))

    def error_from(first: int, links: Sequence[Link]) -> float:
        """The error if `links` take the place of the blocks from `first` on."""
        return error(subject, head(functools.reduce(lambda x, link: link(x), links, inputs[first])))

    deleted = {
        blocks[i].name: error_from(i, [link, *blocks[i + 1 :]])
        for i, link in enumerate(cut)
        if link is not None
    }
    regular = [i for i, block in enumerate(blocks) if block.regular and cut[i] is not None]
    if not regular:
        raise InputError(
            f"{subject.name} has no block that keeps its shape, so none can be deleted or swapped"
        )
    rng, several, swapped = np.random.default_rng(0), [], []
    for count in [count for count in options.counts if count <= len(regular)]:
        for _ in range(options.draws):
            gone = set(rng.choice(regular, count, replace=False).tolist())
            links: list[Any] = [cut[i] if i in gone else block for i, block in enumerate(blocks)]
            several.append(Draw(count, error_from(0, links)))
    groups = _groups(blocks)
    for count in options.counts if groups else ():
        for _ in range(options.draws):
            order = _swapped(len(blocks), groups, count, rng)
            tau = float(scipy.stats.kendalltau(range(len(order)), order)[0])  # type: ignore[arg-type]
            swapped.append(Draw(count, error_from(0, [blocks[i] for i in order]), tau))
    numbers = [i + 1 for i, link in enumerate(cut) if link is not None]
    return DamagedNet(subject.name, error(subject, head(inputs[-1])), deleted, numbers, several, swapped)


def _groups(blocks: Sequence[Part]) -> list[list[int]]:
    """Groups of places of blocks that differ only in their variables, and so may be exchanged."""
    groups: dict[Any, list[int]] = {}
    for i, block in enumerate(blocks):
        if block.regular:
            groups.setdefault(block.module, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def _swapped(n: int, groups: list[list[int]], count: int, rng: np.random.Generator) -> list[int]:
    """An order in which `count` times two places of one group, drawn at random, were exchanged."""
    order, sizes = list(range(n)), np.array([len(group) for group in groups])
    for _ in range(count):
        group = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
        a, b = rng.choice(group, 2, replace=False).tolist()
        order[a], order[b] = order[b], order[a]
    return order


def _single(net: DamagedNet) -> dict:
    errors = np.array([*net.deleted.values()])
    worst = max(net.deleted, key=lambda name: net.deleted[name])
    return {
        "net": net.name,
        "intact": net.intact,
        "median": float(np.median(errors)),
        "lowest": float(errors.min()),
        "highest": float(errors.max()),
        "worst block": worst,
        "blocks": len(errors),
    }


def _several(net: DamagedNet) -> list[dict]:
    rows = []
    for count in sorted({draw.count for draw in net.several + net.swapped}):
        row: dict[str, Any] = {"net": net.name, "blocks or pairs": count}
        for name, draws in (("deleted", net.several), ("swapped", net.swapped)):
            errors = [draw.error for draw in draws if draw.count == count]
            row[name] = (
                f"{np.median(errors):.3g} ({min(errors):.3g} to {max(errors):.3g})" if errors else "none"
            )
        rows.append(row)
    return rows
