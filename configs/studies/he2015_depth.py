"""Plain nets against residual ones (option A), over depth, each at its best of three learning rates.

Source: He 2015 (arXiv 1512.03385), Table 6 and Fig. 6. Published test error, CIFAR-10, ResNet-20/32/44/56:
8.75, 7.51, 7.17, 6.97 %; ResNet-110: 6.61 ± 0.16 % (n = 5). Plain nets get worse with depth; plain-110 stays
above 60 %. The paper has one rate, 0.1; the grid is ours, so that no net is judged by the other's rate.
Command: python scripts/study.py --study=configs/studies/he2015_depth.py --workdir=runs/he2015_depth
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (20, 32, 44, 56, 110)), "small": (digits(), (20, 32))}[scale]
    arms = {}
    for depth in depths:
        arms[f"resnet-{depth}"] = Arm({"model.depth": depth}, reference=f"resnet-{depth}")
        plain = {"model.depth": depth, "model.shortcut": "none"}
        arms[f"plain-{depth}"] = Arm(plain, reference=f"resnet-{depth}")
    return Study(
        title="Plain against residual nets, over depth, each at its best learning rate",
        base=base,
        arms=arms,
        reference=f"resnet-{depths[0]}",
        learning_rates=(0.1, 0.05, 0.02),
        paper="He 2015 (arXiv 1512.03385)",
        table="Table 6, Fig. 6",
    )
