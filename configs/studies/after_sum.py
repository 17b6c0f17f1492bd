"""What may follow the sum of shortcut and branch? Identity, ReLU, tanh, sigmoid as it is and gain-corrected.

Source: He 2016 (arXiv 1603.05027), section 2: the gradient reaches every block undamped if shortcut and what
follows the sum are identities; a sigmoid passes at most 1/4 a block. Published for ResNet-110, CIFAR-10:
ReLU 6.61 ± 0.16 % error; gcr/torch-residual-networks, one run each: ReLU 6.97, identity 6.32 %.
`gain_corrected` also scales the ReLUs of the branch, which batch norm undoes.
Command: python scripts/study.py --study=configs/studies/after_sum.py --workdir=runs/after_sum
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (20, 56, 110)), "small": (digits(), (8, 20))}[scale]
    functions = {name: {"model.after_sum": name} for name in ("identity", "relu", "tanh", "sigmoid")}
    functions |= {"sigmoid-corrected": {"model.after_sum": "sigmoid", "model.gain_corrected": True}}
    arms = {}
    for depth in depths:
        for name, changes in functions.items():
            arms[f"{name}-{depth}"] = Arm(changes | {"model.depth": depth}, reference=f"identity-{depth}")
    title = "The function after the sum"
    return Study(title, base, arms, next(iter(arms)), paper="He 2016 (arXiv 1603.05027)", table="section 2")
