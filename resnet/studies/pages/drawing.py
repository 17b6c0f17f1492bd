"""What the figures of a study share: their size, lines and legend."""

from typing import Any

from resnet.analysis.pictures import COLORS, LINES


def empty_figure(panels: int, width: float = 4.6, height: float = 3.6) -> Any:
    """A figure for so many panels side by side, of this size each, in inches."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    return Figure(figsize=(width * panels, height), layout="constrained", dpi=150)


def line_style(i: int) -> dict[str, Any]:
    """Colour and kind of the line number i."""
    return {"color": COLORS[i % len(COLORS)], "linestyle": LINES[(i + 2 * (i // len(COLORS))) % len(LINES)]}


def legend(figure: Any) -> None:
    """Draws one legend for all panels, beside them."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
