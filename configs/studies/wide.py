"""Width against depth: wide residual nets of equally many parameters.

Source: Zagoruyko 2016 (arXiv 1605.07146), CIFAR-10, median test error of 5 runs: WRN-40-4 4.53 % (8.9 million
parameters), WRN-16-8 4.27 (11.0), WRN-28-10 4.00 (36.5), WRN-16-4 5.02 (2.7), WRN-52-1 6.43.
Those budgets differ; here every depth is widened until it has the parameters of WRN-40-4.
Command: python scripts/study.py --study=configs/studies/wide.py --workdir=runs/wide
"""

from configs.cifar10_wrn16_4 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.config import replaced
from resnet.studies.budget import Match
from resnet.studies.study import Arm, Published, Study

WIDE = {"model.family": "wide", "model.activation_order": "preactivation", "model.transition": "projection"}


def get_study(scale: str) -> Study:
    small = replaced(digits(), WIDE | {"model.depth": 16})
    base, width = {"paper": (cifar10(), 4.0), "small": (small, 0.5)}[scale]
    deep, others = 40, (10, 16, 28)
    net, published = {"model.depth": deep, "model.width": width}, Published(4.53, words="median of 5")
    arms = {f"wrn-{deep}": Arm(net, published=published)}
    for depth in others:
        arms[f"wrn-{depth}"] = Arm({"model.depth": depth}, match=Match(f"wrn-{deep}"))
    paper = "Zagoruyko 2016 (arXiv 1605.07146)"
    return Study("Width against depth", base, arms, f"wrn-{deep}", paper=paper, table="Table 5")
