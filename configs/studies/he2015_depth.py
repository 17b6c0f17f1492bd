"""Compares plain nets with residual ones (option A) at several depths, each at its best learning rate.

Source: He 2015 (arXiv 1512.03385), Table 6 and Fig. 6: CIFAR-10, test error below; plain nets get worse with
depth. The paper has one rate, 0.1; the grid, three or more, is ours: no net is judged by the other's rate.
Command: python scripts/study.py --study=configs/studies/he2015_depth.py --workdir=runs/he2015_depth
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

ERRORS = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (20, 32, 44, 56, 110)), "small": (digits(), (20, 32))}[scale]
    arms, worse = {}, Published(than_reference="worse", words="figure only")
    for depth in depths:
        name, net = f"resnet-{depth}", {"model.depth": depth}
        arms[name] = Arm(net, name, published=Published(ERRORS[depth]))
        plain = Published(above=60, words="> 60 %") if depth == 110 else worse
        arms[f"plain-{depth}"] = Arm(net | {"model.shortcut": "none"}, name, published=plain)
    title, rates = "Plain and residual nets, over depth, each at its best learning rate", (0.1, 0.05, 0.02)
    paper, table = "He 2015 (arXiv 1512.03385)", "Table 6, Fig. 6"
    return Study(title, base, arms, next(iter(arms)), learning_rates=rates, paper=paper, table=table)
