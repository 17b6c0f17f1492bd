"""Does full pre-activation help more the deeper the net? With one, two and three convolutions a block.

Source: He 2016 (arXiv 1603.05027), Table 3: CIFAR-10 test error, original and pre-activation, below.
CIFAR-100 (--config.data.name=cifar100): ResNet-164 25.16 / 24.33, ResNet-1001 27.82 / 22.71.
Command: python scripts/study.py --study=configs/studies/he2016_preactivation.py --workdir=runs/he2016_depth
"""

from configs.cifar10_he2016 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

BOTTLENECK = {("bottleneck", 164): (5.93, 5.46), ("bottleneck", 1001): (7.61, 4.92)}
CIFAR = {("single", 110): (9.90, 8.91), ("basic", 110): (6.61, 6.37)} | BOTTLENECK
DIGITS = dict.fromkeys((("single", 20), ("basic", 20), ("basic", 56)), (None, None))


def get_study(scale: str) -> Study:
    base, nets = {"paper": (cifar10(), CIFAR), "small": (digits(), DIGITS)}[scale]
    arms = {}
    for (branch, depth), errors in nets.items():
        net = {"model.branch": branch, "model.depth": depth}
        net |= {"model.transition": "projection"} if branch == "bottleneck" else {}
        for order, error in zip(("postactivation", "preactivation"), errors, strict=True):
            changes, published = net | {"model.activation_order": order}, Published(error) if error else None
            reference = f"{branch}-{depth}-postactivation"
            arms[f"{branch}-{depth}-{order}"] = Arm(changes, reference, published=published)
    title, paper = "Original and pre-activation blocks, over depth", "He 2016 (arXiv 1603.05027)"
    return Study(title, base, arms, next(iter(arms)), paper=paper, table="Table 3")
