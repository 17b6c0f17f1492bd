"""Where the shape changes: zeros at the end, zeros on both sides, pooled pixels, or a matrix.

Source: He 2015 (arXiv 1512.03385) leaves open how option A pads; published code differs. fb.resnet.torch
appends zeros, akamaster/pytorch_resnet_cifar10 pads both sides (ResNet-20: 8.27 % test error, best epoch),
stochastic depth averages pixels; ResNet-D (He 2018, 1812.01187) averages before its projection.
Command: python scripts/study.py --study=configs/studies/transitions.py --workdir=runs/transitions
"""

from configs.cifar10_resnet import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study


def get_study(scale: str) -> Study:
    arms = {
        "pad-end": Arm(published=Published(8.75, source="He 2015 (arXiv 1512.03385), Table 6")),
        "pad-both": Arm({"model.pad_side": "both"}),
        "pad-averaged": Arm({"model.pad_mode": "average"}),
        "projection": Arm({"model.transition": "projection"}),
        "averaged-projection": Arm({"model.transition": "average_projection"}),
    }
    base = cifar10() if scale == "paper" else digits()
    paper = "He 2015 (arXiv 1512.03385)"
    return Study(
        "The shortcut where the shape changes", base, arms, "pad-end", paper=paper, table="section 3.3"
    )
