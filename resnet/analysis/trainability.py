"""How deep a net can be before its gradients leave 1e±k at the start: every shortcut in every order.

Each net is a chain of equal blocks, as wide as the config says, at its start. Its gradient enters
behind the last block as noise, with the batch's statistics in batch norms; R(l) is the gradient at the
first block over that behind block l, in decades, the mean over the seeds. The depth is the first l with
|R(l)| >= k. Where the measured chain stays inside, the depth is extrapolated, by the growth per block
(R = a l) or by a power of depth (R = p log10(l + 1)), whichever leaves the smaller squares in the
last half of the chain; where neither is told from no growth by its 95 % interval it is more than what
was measured, and no number is given. Nets are taken without the noise of training, so that dropout is
the identity, and gates with the bias of the config. Combinations that the grammar refuses are grey.
Source: Schoenholz 2017 (https://arxiv.org/abs/1611.01232) for the depth scale of gradients; Yang 2017
(https://arxiv.org/abs/1712.08969) for residual nets, whose growth is a power of depth.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from absl import logging
from jaxtyping import Float

from resnet.analysis import growth, pictures, signal
from resnet.analysis.options import Count, Within, check_options
from resnet.analysis.subject import NOISE, Subject
from resnet.errors import InputError
from resnet.models.branches import ORDERS
from resnet.models.shortcuts.table import SHORTCUTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETS = ("model.family", "model.depth", "model.blocks", "model.shortcut", "model.activation_order")
# Depths beyond this are not told apart.
DEEPEST = 1e5


@dataclasses.dataclass(frozen=True)
class Options:
    """What can be chosen."""

    decades: Annotated[float, Within(0.01, 300)] = 3.0
    """k: the gradient may fall or rise by this many powers of ten."""
    blocks: Annotated[int, Within(8, 10_000)] = 60
    """Blocks of the chain that is measured."""
    seeds: Count = 2
    """Nets at their start over which is averaged."""
    shortcuts: tuple[str, ...] = ()
    """Those asked; empty for all."""
    orders: tuple[str, ...] = ()
    """Those asked; empty for all."""

    __post_init__ = check_options


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One combination."""

    shortcut: str
    order: str
    outcome: str
    """measured, extrapolated (exponential), extrapolated (power), no limit seen, or refused: why."""
    depth: float | None = None
    """Blocks at which the gradient leaves 1e±k; None where unknown or beyond `DEEPEST`."""
    per_block: float | None = None
    """Growth of the gradient over the whole chain, from the top down, as a factor per block."""
    power: float | None = None
    """Exponent p of the growth l^p fitted to it."""
    decades: Float[np.ndarray, " blocks"] | None = None
    """R(l), l = 1 … blocks; NaN where the signal has left the range of float32."""


@dataclasses.dataclass(frozen=True)
class Trainability:
    """One entry for each shortcut and order."""

    title: str
    limit: float
    measured_blocks: int
    shortcuts: list[str]
    orders: list[str]
    cells: list[Cell]

    def tables(self) -> dict[str, list[dict]]:
        """One row a combination."""
        rows = [
            {
                "shortcut": cell.shortcut,
                "order": cell.order,
                "blocks until 1e±k": cell.depth,
                "gradient per block": cell.per_block,
                "as l^p": cell.power,
                "outcome": cell.outcome,
            }
            for cell in self.cells
        ]
        return {f"k = {self.limit:g}; measured over {self.measured_blocks} blocks": rows}

    def plot(self) -> "Figure":
        """The map: depth by colour and number, its sign by an arrow, extrapolations in brackets."""
        from matplotlib.colors import LogNorm

        figure, (axes,) = pictures.panels(1, width=9.5, height=0.42 * len(self.shortcuts) + 2)
        axes.grid(False)
        axes.set_facecolor("lightgrey")
        depths = np.full((len(self.shortcuts), len(self.orders)), np.nan)
        for cell in self.cells:
            at = self.shortcuts.index(cell.shortcut), self.orders.index(cell.order)
            if not cell.outcome.startswith("refused"):
                depths[at] = cell.depth or DEEPEST
            dark = depths[at] < 300
            axes.text(at[1], at[0], _text(cell, self.measured_blocks), ha="center", va="center", fontsize=8,
                      color="white" if dark else "black")  # fmt: skip
        image = axes.imshow(depths, norm=LogNorm(1, DEEPEST), cmap="cividis", aspect="auto")
        axes.set_xticks(
            range(len(self.orders)), [name.replace("_", "\n", 1) for name in self.orders], fontsize=8
        )
        axes.set_yticks(range(len(self.shortcuts)), self.shortcuts, fontsize=8)
        axes.set(xlabel="order of activation in a block", ylabel="shortcut")
        figure.colorbar(image, ax=axes, label=f"blocks until the gradient leaves 1e±{self.limit:g}")
        legend = f"(…) beyond the {self.measured_blocks} blocks measured; grey: refused by the grammar"
        axes.set_title(f"{self.title}\n▲ rises ▼ falls, going down the net; {legend}", fontsize=9)
        return figure


def ask(subject: Subject, options: Options) -> Trainability:
    """The depth of every combination."""
    if subject.step is not None:
        raise InputError(f"{subject.name} is a run; give --config=…, whose shortcut and order are varied")
    if subject.data != NOISE:
        raise InputError(f"`--data` must be noise: growth is that of the blocks alone; got {subject.data}")
    shortcuts, orders = (
        _chosen("shortcuts", options.shortcuts, SHORTCUTS),
        _chosen("orders", options.orders, ORDERS),
    )
    cells = []
    for shortcut in shortcuts:
        for order in orders:
            cells.append(_cell(subject, shortcut, order, options))
            logging.info("%s, %s: %s %s", shortcut, order, cells[-1].outcome, cells[-1].depth or "")
    title = f"{subject.name} at its start, chains of {options.blocks} blocks, {options.seeds} seeds"
    return Trainability(title, options.decades, options.blocks, shortcuts, orders, cells)


def _chosen(name: str, given: tuple[str, ...], known: dict) -> list[str]:
    for each in given:
        if each not in known:
            raise InputError(f"`--{name}` must be among {', '.join(known)}; got {each!r}")
    return list(given or known)


def _cell(subject: Subject, shortcut: str, order: str, options: Options) -> Cell:
    """Measures one combination, or says why the grammar refuses it."""
    chain = {"family": "chain", "blocks": (options.blocks,), "shortcut": shortcut, "activation_order": order}
    changes = {f"model.{name}": value for name, value in {**chain, **SHORTCUTS[shortcut].needs}.items()}
    first = subject.config.seed
    try:
        nets = [subject.restarted(seed, changes) for seed in range(first, first + options.seeds)]
    except InputError as error:
        return Cell(shortcut, order, f"refused: {error}")
    gradients = [signal.measure_flow(net).gradient / math.log(10) for net in nets]
    decades = np.mean([values[0] - values[1:] for values in gradients], 0)
    increments = np.concatenate([-np.diff(values) for values in gradients]) * math.log(10)
    outcome, depth = depth_of_limit(decades, increments, options.decades)
    places = np.tile(np.arange(1, options.blocks + 1), options.seeds)
    per_block, power = growth.growth_per_block(increments, places), growth.power_of_depth(increments, places)
    return Cell(
        shortcut, order, outcome, depth, per_block and per_block.value, power and power.value, decades
    )  # fmt: skip


def depth_of_limit(
    decades: Float[np.ndarray, " blocks"], increments: Float[np.ndarray, " n"], limit: float
) -> tuple[str, float | None]:
    """(how it was found, blocks) until |decades| reaches `limit`.

    increments: natural logarithms of the growth per block, of every seed one after the other.
    """
    blocks = np.arange(1, len(decades) + 1)
    beyond = np.flatnonzero(np.abs(decades) >= limit)
    if len(beyond):
        return "measured", float(blocks[beyond[0]])
    places = np.tile(blocks, len(increments) // len(blocks))
    exponential, power = (
        growth.growth_per_block(increments, places),
        growth.power_of_depth(increments, places),
    )
    if exponential is None or power is None:
        return "dead: no gradient reaches the first block", None
    late = slice(len(blocks) // 2, None)
    x = {"exponential": blocks * math.log10(exponential.value), "power": power.value * np.log10(blocks + 1)}
    squares = {name: np.nansum((decades - values)[late] ** 2) for name, values in x.items()}
    best = min(squares, key=squares.__getitem__)
    grows = not (exponential.holds(1) if best == "exponential" else power.holds(0))
    if not grows or np.nanmax(np.abs(decades)) == 0:
        return "no limit seen", None
    if best == "exponential":
        depth = limit / abs(math.log10(exponential.value))
    else:
        depth = 10 ** min(limit / abs(power.value), 300) - 1
    depth = max(depth, float(np.isfinite(decades).sum() + 1))  # no block that was measured is beyond it
    return f"extrapolated ({best})", depth if depth <= DEEPEST else None


def _text(cell: Cell, measured: int) -> str:
    """What stands in a cell."""
    if cell.outcome.startswith("refused"):
        return ""
    if cell.outcome.startswith("dead"):
        return "dead"
    if cell.depth is None:
        return f"> {measured}" if cell.outcome == "no limit seen" else f"> {DEEPEST:.0e}".replace("e+0", "e")
    assert cell.decades is not None
    finite = cell.decades[np.isfinite(cell.decades)]
    arrow = "▲" if finite[-1] > 0 else "▼"
    number = f"{cell.depth:.3g}" if cell.depth < 1000 else f"{cell.depth:.1e}".replace("e+0", "e")
    return f"{arrow} {number}" if cell.outcome == "measured" else f"({arrow} {number})"
