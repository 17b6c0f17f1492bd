"""Is the deep plain net slow, or incapable? Identity against none at 56 layers, over the time it trains.

Each net at its best rate of one grid at each length, chosen on validation by three seeds.
Source: He 2015 (arXiv 1512.03385), section 4.1: three times the iterations leave the plain net of 34 layers
behind on ImageNet; data, depth and recipe are ours.
Command: python scripts/study.py --study=configs/studies/budgets.py --workdir=runs/budgets --study.scale=small
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, unit, lengths = {
        "paper": (cifar10(), "steps", (16_000, 64_000, 192_000)),
        "small": (digits(), "epochs", (15, 60, 200)),
    }[scale]
    base.model.depth, base.model.scan_blocks = 56, True
    if scale == "paper":
        base.schedule.milestones = ("50 %", "75 %")  # as 32,000 and 48,000 of 64,000 steps are
    arms = {}
    for length in lengths:
        duration = {"train.duration": f"{length} {unit}"}
        arms[f"identity-{length}"] = Arm(duration, f"identity-{length}")
        arms[f"none-{length}"] = Arm(duration | {"model.shortcut": "none"}, f"identity-{length}")
    title, rates = "Identity against none, over the length of the training", (0.02, 0.05, 0.1)
    return Study(title, base, arms, f"identity-{lengths[0]}", (0, 1, 2), rates, grid_seeds=3)
