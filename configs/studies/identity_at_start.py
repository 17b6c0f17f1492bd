"""Blocks that start as the identity: zero-gamma, ReZero, SkipInit and Fixup, against batch norm.

Source: Goyal 2017 (1706.02677), Bachlechner 2020 (2003.04887), De 2020 (2002.10444), Zhang 2019 (1901.09321).
Published: batch norm as in He 2015, Table 6; ReZero: ResNet-56 trains 32 % faster. SkipInit, Fixup and `bare`
have no norm. Each arm takes its best learning rate on validation.
Command: python scripts/study.py --study=configs/studies/identity_at_start.py --workdir=runs/identity_at_start
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

BARE = {"model.norm": "none", "model.ghost_batch": 0}
# Zhang 2019: scalars learn at a tenth of the rate, and the head starts at 0.
SCALARS = {"optimizer.lr_multipliers": ((r"(?<!dense/)(bias\d*|scale)$", 0.1),), "model.zero_head": True}


def get_study(scale: str) -> Study:
    base, depth = {"paper": (cifar10(), 110), "small": (digits(), 20)}[scale]
    changes = {"batch-norm": {}, "zero-gamma": {"model.zero_gamma": True}, "bare": BARE}
    changes["rezero"] = {"model.shortcut": "rezero"}
    changes["skipinit"] = BARE | {"model.shortcut": "skipinit"}
    changes["fixup"] = BARE | SCALARS | {"model.shortcut": "fixup"}
    arms = {name: Arm({"model.depth": depth} | change) for name, change in changes.items()}
    he2015 = Published(6.61, words="6.61 ± 0.16, 5 runs", source="He 2015 (arXiv 1512.03385), Table 6")
    arms["batch-norm"] = Arm({"model.depth": depth}, published=he2015)
    title = "Blocks that start as the identity"
    return Study(
        title, base, arms, "batch-norm", learning_rates=(0.2, 0.1, 0.05, 0.02), paper="see the study file"
    )
