"""Five orders of norm, activation and convolution, with two and with three convolutions a block.

Source: He 2016 (arXiv 1603.05027), Table 2: CIFAR-10, median test error of 5 runs, ResNet-110 and ResNet-164,
below. A rerun of ResNet-110 (gcr/torch-residual-networks) has 13.56 % for the norm after the sum.
Command: python scripts/study.py --study=configs/studies/he2016_orders.py --workdir=runs/he2016_orders
"""

from configs.cifar10_he2016 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

ERRORS = {"postactivation": (6.61, 5.93), "norm_after_sum": (8.17, 6.50)}
ERRORS |= {"activation_before_sum": (7.84, 6.14), "activation_only_preactivation": (6.71, 5.91)}
ERRORS |= {"preactivation": (6.37, 5.46)}
BOTTLENECK = {"model.branch": "bottleneck", "model.transition": "projection"}


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (110, 164)), "small": (digits(), (20, 29))}[scale]
    arms = {}
    for i, (depth, net) in enumerate(zip(depths, ({}, BOTTLENECK), strict=True)):
        for order, errors in ERRORS.items():
            changes = net | {"model.depth": depth, "model.activation_order": order}
            arms[f"{order}-{depth}"] = Arm(changes, f"postactivation-{depth}", published=Published(errors[i]))
    paper = "He 2016 (arXiv 1603.05027)"
    return Study("Five orders of a block", base, arms, next(iter(arms)), paper=paper, table="Table 2")
