"""Shortcuts since 2016 in the order that their papers have: norm and ReLU before the convolutions.

Orthogonal updates, hyper-connections and branches over sqrt(L) leave the sum untouched in their papers. Each
net at its best rate of one grid, chosen on validation by three seeds.
Source: docs/shortcuts.md names the paper of each; data and recipe are ours.
Command: python scripts/study.py --study=configs/studies/since_2016_preactivation.py --workdir=runs/since_pre
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study

SHORTCUTS = {"identity": "identity", "depth-scaled": "depth_scaled", "orthogonal": "orthogonal"}
SHORTCUTS |= {"hyper": "hyper_dynamic"}


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (56, 110)), "small": (digits(), (20, 56))}[scale]
    base.model.activation_order, base.model.scan_blocks = "preactivation", True
    arms = {
        f"{name}-{depth}": Arm({"model.depth": depth, "model.shortcut": shortcut}, f"identity-{depth}")
        for depth in depths
        for name, shortcut in SHORTCUTS.items()
    }
    title, rates = "Shortcuts since 2016, pre-activation", (0.02, 0.05, 0.1)
    return Study(title, base, arms, f"identity-{depths[0]}", learning_rates=rates, grid_seeds=3)
