"""Does the shortcut let depth train? Identity against none, over depths, on digits.

Source: He 2015 (arXiv 1512.03385), Fig. 6: plain nets get worse with depth in training and test error,
residual nets do not. Published for CIFAR-10; no numbers in the text but plain-110 above 60 % error.
Command: make study, which is
python scripts/study.py --study=configs/studies/shortcut_on_off.py --study.scale=small --workdir=runs/study
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (8, 20, 56, 110)), "small": (digits(), (8, 20, 56))}[scale]
    arms = {}
    for depth in depths:
        arms[f"identity-{depth}"] = Arm({"model.depth": depth}, reference=f"identity-{depth}")
        plain = {"model.depth": depth, "model.shortcut": "none"}
        arms[f"none-{depth}"] = Arm(plain, reference=f"identity-{depth}")
    return Study(
        title="Identity against none, over depth",
        base=base,
        arms=arms,
        reference=f"identity-{depths[0]}",
        paper="He 2015 (arXiv 1512.03385)",
        table="Fig. 6",
    )
