"""Folds the shortcuts of trained nets into their kernels: the same answers, and what the plain net costs."""

from typing import Any

from resnet.analysis.claims.claim import Bench, Claim, Rows, row_of
from resnet.analysis.claims.trained import DEPTHS, EPOCHS, net_folder
from resnet.analysis.laws import Check, Law, check
from resnet.data.datasets import shapes_of
from resnet.models.counts import count_parts, totals
from resnet.run import Run, load, load_run_split

NETS = {
    "ResNet (RMNet's way)": (net_folder("identity", DEPTHS[0], EPOCHS[0]), {"model.depth": DEPTHS[0]}),
    "RepVGG": (f"repvgg-{EPOCHS[0]}epochs",
               {"model.shortcut": "repvgg", "model.branch": "single", "model.blocks": (2, 2, 2)}),
}  # fmt: skip
APART = "largest difference of logits, over the largest logit"
COSTS = ("parameters", "multiply-accumulates")


def measure_folded(bench: Bench) -> Rows:
    """Trained nets before and after they are folded: all test images, and what the nets cost."""
    rows = []
    for name, (folder, changes) in NETS.items():
        runs, _ = bench.trained(folder, {"train.duration": f"{EPOCHS[0]} epochs"} | changes)
        run = load(runs / "seed0")
        images, _ = load_run_split(run, "test", run.config.data)
        folded = run.folded()
        before, after = (each.logits(images.images) for each in (run, folded))
        row: dict[str, Any] = {"net": name, "images": len(images)}
        for what, own, others in zip(COSTS, _costs(run), _costs(folded), strict=True):
            row |= {what: own, f"{what}, folded": others}
        rows.append(row | {APART: float(abs(before - after).max() / abs(before).max()),
                           "other classes": int((before.argmax(1) != after.argmax(1)).sum())})  # fmt: skip
    return rows


def rule_folded(rows: Rows) -> list[Check]:
    """Checks that folded nets give the same logits, and that RepVGG's costs no more than before."""
    repvgg = row_of(rows, net="RepVGG")
    return [check(f"{row['net']}: {APART}", row[APART], Law("at most", SAME)) for row in rows] + [
        check(
            f"RepVGG: {what}, folded over before",
            repvgg[f"{what}, folded"] / repvgg[what],
            Law("at most", 1.0),
        )
        for what in COSTS
    ]


SAME = 1e-4
"""What float32 makes of sums in another order, over ten layers."""


def _costs(run: Run) -> tuple[int, int]:
    image, outputs = shapes_of(run.config.data)
    return totals(count_parts(run.config.model, outputs, image))


CLAIMS = (
    Claim(
        "The identity is needed in training alone: a plain net can compute the same afterwards",
        f"Trained nets of {DEPTHS[0]} layers whose shortcuts and norms are folded into their kernels give "
        f"the same logits within {SAME:g} of the largest. Where a branch is one convolution (RepVGG), the "
        "plain net has no more parameters and multiplications than before. (Where it is two, the plain net "
        "carries x in channels of its own, and is larger.)",
        "The folded net is another one, or costs more.",
        measure_folded, rule_folded,
    ),
)  # fmt: skip
