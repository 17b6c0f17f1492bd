"""What may stand on the shortcut? Scaling, gates over a grid of first biases, 1x1 convolution, dropout.

Source: He 2016 (arXiv 1603.05027), Table 1: ResNet-110, CIFAR-10, median test error of 5 runs: original 6.61,
plain fails (above 20 %), 0.5 x + F fails, 0.5 x + 0.5 F 12.35; exclusive gating, bias 0 to -5 fails, -6 8.70,
-7 9.81; shortcut-only gating, bias 0 12.86, -6 6.91; 1x1 convolution 12.22; dropout 0.5 fails.
Command: python scripts/study.py --study=configs/studies/he2016_shortcuts.py --workdir=runs/he2016_shortcuts
"""

from configs.cifar10_he2016 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study

SHORTCUT, HALF = "model.shortcut", {"model.shortcut": "constant_scaling", "model.shortcut_scale": 0.5}


def get_study(scale: str) -> Study:
    base, depth = {"paper": (cifar10(), 110), "small": (digits(), 20)}[scale]
    changes = {"original": {}, "plain": {SHORTCUT: "none"}, "conv1x1": {SHORTCUT: "projection"}}
    changes |= {"half-x": HALF | {"model.branch_scale": 1.0}, "half-both": HALF | {"model.branch_scale": 0.5}}
    for bias in {"paper": range(0, -11, -1), "small": (0, -3, -6)}[scale]:
        for kind in ("exclusive", "shortcut_only"):
            gate = {SHORTCUT: f"{kind}_gating", "model.gate_bias": float(bias)}
            changes[f"{kind}-bias{bias}"] = gate
    changes["dropout"] = {SHORTCUT: "dropout"}
    arms = {name: Arm({"model.depth": depth} | change) for name, change in changes.items()}
    title, paper = "What stands on the shortcut", "He 2016 (arXiv 1603.05027)"
    return Study(title, base, arms, "original", paper=paper, table="Table 1")
