"""What all pictures share: colours that the colour-blind tell apart, and panels with labelled axes."""

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, in an order in which neighbours differ in lightness too; styles serve in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LETTERS = 40  # of a line of a legend


def panels(
    columns: int, width: float = 4.5, height: float = 3.6, rows: int = 1
) -> tuple["Figure", list[Any]]:
    """(figure, its axes from left to right and top to bottom), with light grids."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=150)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def style(i: int) -> dict[str, Any]:
    """Colour and line of the i-th series."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": LINES[i % len(LINES)]}


def legend_beside(figure: "Figure") -> None:
    """One legend for all panels, beside them: of the lines of the first. Breaks long labels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    labels = [textwrap.fill(label, LETTERS) for label in labels]
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def legend_below(figure: "Figure", axes: Any, columns: int = 4) -> None:
    """One legend for all panels, below them: of the lines of `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False)
