"""Which learning rate does the half-width recipe get, with the identity and without? Chosen on validation.

Source: a choice of ours, for configs/digits_small.py, whose rate all arms of most small studies share.
Command: python scripts/study.py --study=configs/studies/half_width_rate.py --workdir=runs/half_width_rate
--study.scale=small
"""

from configs.digits_small import get_config as digits
from resnet.errors import check_choice
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    check_choice("study.scale", scale, ("small",))
    arms = {"identity-20": Arm(), "none-20": Arm({"model.shortcut": "none"})}
    return Study(
        title="The learning rate of the half-width recipe",
        base=digits(),
        arms=arms,
        reference="identity-20",
        seeds=(0, 1, 2),
        learning_rates=(0.1, 0.05, 0.02),
    )
