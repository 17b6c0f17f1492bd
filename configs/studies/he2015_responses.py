"""How strongly do layers respond? The nets whose layer outputs He 2015 compares, trained and kept.

Source: He 2015 (arXiv 1512.03385), Fig. 7, a figure without numbers: the deviation of 3x3 layers after batch
norm, before ReLU and sum, is smaller in residual nets than in plain ones, and smaller in deeper ones.
Command: python scripts/study.py --study=configs/studies/he2015_responses.py --workdir=runs/he2015_responses
Then, for the deviations of the layers of a run: python scripts/analyze.py --question=responses
--workdir=runs/he2015_responses/resnet-20/seed0
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (20, 56, 110)), "small": (digits(), (20, 32))}[scale]
    arms = {f"resnet-{depth}": Arm({"model.depth": depth}, f"resnet-{depth}") for depth in depths}
    for depth in depths[:2]:
        arms[f"plain-{depth}"] = Arm({"model.depth": depth, "model.shortcut": "none"}, f"resnet-{depth}")
    return Study(
        title="Responses of layers, plain and residual",
        base=base,
        arms=arms,
        reference=f"resnet-{depths[0]}",
        paper="He 2015 (arXiv 1512.03385)",
        table="Fig. 7",
    )
