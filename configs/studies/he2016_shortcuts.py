"""What may stand on the shortcut? Scaling, gates over a grid of first biases, 1x1 convolution, dropout.

Source: He 2016 (arXiv 1603.05027), Table 1: ResNet-110, CIFAR-10, median test error of 5 runs, below.
Command: python scripts/study.py --study=configs/studies/he2016_shortcuts.py --workdir=runs/he2016_shortcuts
"""

from configs.cifar10_he2016 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

SHORTCUT, HALF = "model.shortcut", {"model.shortcut": "constant_scaling", "model.shortcut_scale": 0.5}
ERRORS = {"original": 6.61, "half-both": 12.35, "conv1x1": 12.22, "exclusive-bias-6": 8.70}
ERRORS |= {"exclusive-bias-7": 9.81, "shortcut_only-bias0": 12.86, "shortcut_only-bias-6": 6.91}
FAIL = {"plain", "half-x", "dropout", *(f"exclusive-bias{bias}" for bias in range(0, -6, -1))}


def get_study(scale: str) -> Study:
    base, depth = {"paper": (cifar10(), 110), "small": (digits(), 20)}[scale]
    changes = {"original": {}, "plain": {SHORTCUT: "none"}, "conv1x1": {SHORTCUT: "projection"}}
    changes |= {"half-x": HALF | {"model.branch_scale": 1.0}, "half-both": HALF}
    changes["dropout"] = {SHORTCUT: "dropout"}
    for bias in {"paper": range(0, -11, -1), "small": (0, -3, -6)}[scale]:
        for kind in ("exclusive", "shortcut_only"):
            changes[f"{kind}-bias{bias}"] = {SHORTCUT: f"{kind}_gating", "model.gate_bias": float(bias)}
    published = {name: Published(error, words="median of 5") for name, error in ERRORS.items()}
    published |= dict.fromkeys(FAIL, Published(above=20, words="fail (> 20 %)"))
    arms = {n: Arm({"model.depth": depth} | own, published=published.get(n)) for n, own in changes.items()}
    title, paper = "What stands on the shortcut", "He 2016 (arXiv 1603.05027)"
    return Study(title, base, arms, "original", paper=paper, table="Table 1")
