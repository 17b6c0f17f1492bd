"""Does the shortcut let depth train? Identity against none, over depths, on digits.

Source: He 2015 (arXiv 1512.03385), Fig. 6: plain nets get worse with depth in training and test error,
residual nets do not. Published for CIFAR-10; no numbers in the text but plain-110 above 60 % error.
Command: make study, which is
python scripts/study.py --study=configs/studies/shortcut_on_off.py --study.scale=small --workdir=runs/study
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

WORSE = Published(than_reference="worse", words="figure only")
CLAIMS = {20: WORSE, 56: WORSE, 110: Published(above=60, words="> 60 %")}


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (8, 20, 56, 110)), "small": (digits(), (8, 20, 56))}[scale]
    arms = {}
    for depth in depths:
        arms[f"identity-{depth}"] = Arm({"model.depth": depth}, reference=f"identity-{depth}")
        plain = {"model.depth": depth, "model.shortcut": "none"}
        arms[f"none-{depth}"] = Arm(plain, f"identity-{depth}", published=CLAIMS.get(depth))
    title, paper = "Identity against none, over depth", "He 2015 (arXiv 1512.03385)"
    return Study(title, base, arms, f"identity-{depths[0]}", paper=paper, table="Fig. 6")
