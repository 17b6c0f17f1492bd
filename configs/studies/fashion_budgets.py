"""Is the deep plain net slow, or incapable? Identity against none at 56 layers, by length, on Fashion-MNIST.

Each net at its best rate of one grid at each length, chosen on validation by three seeds; budgets.py asks the
same of digits.
Source: He 2015 (arXiv 1512.03385), section 4.1; data, depth and recipe are ours.
Command: python scripts/study.py --study=configs/studies/fashion_budgets.py --workdir=runs/fashion_budgets
--study.scale=small
"""

from configs.fashion_small import get_config as fashion
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base, lengths = fashion(), {"paper": (15, 60, 200), "small": (5, 20, 60)}[scale]
    base.model.depth, base.model.scan_blocks = 56, True
    if scale == "paper":
        base.model.width, base.data.train_limit = 1.0, 0
    arms = {}
    for length in lengths:
        duration = {"train.duration": f"{length} epochs"}
        arms[f"identity-{length}"] = Arm(duration, f"identity-{length}")
        arms[f"none-{length}"] = Arm(duration | {"model.shortcut": "none"}, f"identity-{length}")
    title, rates = "Identity against none over the length of the training, Fashion-MNIST", (0.03, 0.1, 0.3)
    return Study(title, base, arms, f"identity-{lengths[0]}", (0, 1, 2), rates, grid_seeds=3)
