"""Does the best learning rate stay the same as a net gets deeper? With x + F, x + F / sqrt(L), and F alone.

Four depths, one grid for all; `rates.png` of the report shows the loss at each rate.
Source: Bordelon 2023 (arXiv 2309.16620) and Yang 2023 (arXiv 2310.02244); data and recipe are ours. Their
branches have no norm behind the last convolution, and neither have those of the pre-activation order.
Command: python scripts/study.py --study=configs/studies/rate_transfer.py --workdir=runs/rate_transfer
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study

SHORTCUTS = {"identity": "identity", "depth-scaled": "depth_scaled", "none": "none"}
RATES = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)


def get_study(scale: str) -> Study:
    base = {"paper": cifar10, "small": digits}[scale]()
    base.model.activation_order, base.model.scan_blocks = "preactivation", True
    arms = {
        f"{name}-{depth}": Arm({"model.shortcut": shortcut, "model.depth": depth}, f"identity-{depth}")
        for name, shortcut in SHORTCUTS.items()
        for depth in (8, 20, 56, 110)
    }
    return Study("Learning rates over depth", base, arms, "identity-20", (0, 1, 2), RATES)
