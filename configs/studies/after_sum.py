"""What may follow the sum of shortcut and branch? Identity, ReLU, tanh, sigmoid as it is and gain-corrected.

Source: He 2016 (arXiv 1603.05027), section 2: the gradient reaches every block undamped if shortcut and what
follows the sum are identities; a sigmoid passes at most 1/4 a block. Errors on CIFAR-10: one run each, github
gcr/torch-residual-networks. `gain_corrected` scales the branch's ReLUs too, which batch norm undoes.
Command: python scripts/study.py --study=configs/studies/after_sum.py --workdir=runs/after_sum
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study

ERRORS = {"identity-20": 8.62, "relu-20": 8.29, "identity-110": 6.32, "relu-110": 6.97}
RERUNS = "github gcr/torch-residual-networks"


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (20, 56, 110)), "small": (digits(), (8, 20))}[scale]
    functions = {name: {"model.after_sum": name} for name in ("identity", "relu", "tanh", "sigmoid")}
    functions |= {"sigmoid-corrected": {"model.after_sum": "sigmoid", "model.gain_corrected": True}}
    arms = {}
    for depth in depths:
        for function, changes in functions.items():
            changes = changes | {"model.depth": depth}
            error = ERRORS.get(name := f"{function}-{depth}")
            found = {"words": "one run", "source": RERUNS, "same_recipe": False}
            published = Published(error, **found) if error else None
            arms[name] = Arm(changes, f"identity-{depth}", published=published)
    title, paper = "The function after the sum", "He 2016 (arXiv 1603.05027)"
    return Study(title, base, arms, next(iter(arms)), paper=paper, table="section 2")
