"""With and without shortcuts: the pairs of nets whose loss surfaces Li 2018 draws.

Source: Li 2018 (arXiv 1712.09913), Fig. 5 and 6, CIFAR-10 test error with and without shortcuts,
below. Each run keeps its last weights, from which a loss surface is drawn.
Command: python scripts/study.py --study=configs/studies/li2018_shortcuts.py --workdir=runs/li2018
"""

from configs.cifar10_li2018 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

ERRORS = {20: (7.37, 8.18), 56: (5.89, 13.31), 110: (5.79, 16.44)}


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (20, 56, 110)), "small": (digits(), (20, 56))}[scale]
    arms = {}
    for depth in depths:
        net = {"model.depth": depth, "model.transition": "projection"}
        short, noshort = map(Published, ERRORS[depth])
        arms[f"short-{depth}"] = Arm(net, f"short-{depth}", published=short)
        without = net | {"model.shortcut": "none"}
        arms[f"noshort-{depth}"] = Arm(without, f"short-{depth}", published=noshort)
    title, paper = "Nets with and without shortcuts, for their loss surfaces", "Li 2018 (arXiv 1712.09913)"
    return Study(title, base, arms, next(iter(arms)), paper=paper, table="Fig. 5, Fig. 6")
