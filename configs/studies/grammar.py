"""Does each shortcut train in each order of activation? What the grammar refuses is left out.

Source: a question of ours; the orders are those of He 2016 (arXiv 1603.05027), Table 2.
Command: python scripts/study.py --study=configs/studies/grammar.py --study.scale=small --workdir=runs/grammar
"""

import contextlib

from configs.cifar10_resnet import get_config as cifar10
from configs.digits_grammar import get_config as digits
from resnet.config import replaced
from resnet.errors import InputError
from resnet.models.branches import ORDERS
from resnet.models.grammar import check_net
from resnet.models.shortcuts.table import SHORTCUTS
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, arms = {"paper": cifar10(), "small": digits()}[scale], {}
    for name, shortcut in SHORTCUTS.items():
        needs = {f"model.{field}": value for field, value in shortcut.needs.items()}
        for order in ORDERS:
            changes = {"model.shortcut": name, "model.activation_order": order} | needs
            with contextlib.suppress(InputError):
                check_net(replaced(base, changes).model)
                arms[f"{name}-{order}"] = Arm(changes, f"identity-{order}")
    return Study("Every shortcut in every order of activation", base, arms, "identity-postactivation")
