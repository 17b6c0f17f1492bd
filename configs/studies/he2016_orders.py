"""Five orders of norm, activation and convolution, with two and with three convolutions a block.

Source: He 2016 (arXiv 1603.05027), Table 2: CIFAR-10, median test error of 5 runs, ResNet-110 / ResNet-164.
Original 6.61 / 5.93 %, BN after addition 8.17 / 6.50, ReLU before addition 7.84 / 6.14, ReLU-only
pre-activation 6.71 / 5.91, full pre-activation 6.37 / 5.46.
Command: python scripts/study.py --study=configs/studies/he2016_orders.py --workdir=runs/he2016_orders
"""

from configs.cifar10_he2016 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.models.branches import ORDERS
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (110, 164)), "small": (digits(), (20, 29))}[scale]
    basic = {"model.depth": depths[0]}
    bottleneck = {"model.depth": depths[1], "model.branch": "bottleneck", "model.transition": "projection"}
    arms = {}
    for net in (basic, bottleneck):
        for order in ORDERS:
            reference = f"postactivation-{net['model.depth']}"
            arms[f"{order}-{net['model.depth']}"] = Arm(net | {"model.order": order}, reference)
    title = "Five orders of a block"
    return Study(title, base, arms, next(iter(arms)), paper="He 2016 (arXiv 1603.05027)", table="Table 2")
