"""A picture of where the time of a step goes: by part of the net and phase, in the colours of its kinds."""

from pathlib import Path

from resnet.files import save_png
from resnet.planning.figures import Cost
from resnet.planning.parts import KINDS, PHASES
from resnet.planning.plan import Plan


def draw_plan(plan: Plan, path: Path) -> None:
    """Writes the picture of a plan that fits: milliseconds by cycles where there are any, else by bytes."""
    from matplotlib.figure import Figure

    chip = plan.target.chip
    by_cycles = "cycles" in plan.times

    def milliseconds(cost: Cost) -> float:
        return 1e3 * (cost.cycles / chip.clock if by_cycles else cost.bytes / chip.bandwidth)

    rows = _rows(plan.costs)
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for index, kind in enumerate(KINDS):
        widths = [
            sum(
                milliseconds(cost)
                for cost in plan.costs
                if (cost.part, cost.phase, cost.kind) == (*row, kind)
            )
            for row in rows
        ]
        if any(widths):
            axes.barh(range(len(rows)), widths, left=left, label=kind, color=f"C{index}")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(rows)), [part if part == phase else f"{part}, {phase}" for part, phase in rows])
    axes.invert_yaxis()
    unit = "the compiler's cycles" if by_cycles else "bytes moved, at the memory's peak rate"
    axes.set_xlabel(f"ms of a step on one device, by {unit}")
    axes.set_title(f"{plan.target.name}, batch {plan.config.train.batch_size}: predicted, not measured")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    save_png(figure, path, dpi=120)


def _rows(costs: list[Cost]) -> list[tuple[str, str]]:
    """(part, phase) in the order of a step: data, forward through the parts, backward, update."""
    found = {(cost.part, cost.phase) for cost in costs}

    def place(row: tuple[str, str]) -> tuple:
        part, phase = row
        order = {"stem": "", "head": "y", "loss": "z"}.get(part, part)
        return PHASES.index(phase), order

    return sorted(found, key=place)
