"""What do the shortcuts of RepVGG do? Blocks of one convolution with none, 1x1, identity or both, normed.

`bare` is the identity without a norm, which RepVGG's authors compare too. Each net at its best rate of one
grid, chosen on validation by three seeds.
Source: Ding 2021 (arXiv 2101.03697), Table 6: none 72.39, 1x1 73.15, identity 74.79, both 75.14 % on
ImageNet; data, depths and recipe are ours, so that the order of the arms alone compares.
Command: python scripts/study.py --study=configs/studies/repvgg.py --workdir=runs/repvgg
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study

SHORTCUTS = {"both": "repvgg", "none": "none", "1x1": "projection", "identity": "normed_identity"}
SHORTCUTS |= {"bare": "identity"}


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (56, 110)), "small": (digits(), (20, 56))}[scale]
    base.model.branch, base.model.scan_blocks = "single", True
    arms = {
        f"{name}-{depth}": Arm({"model.depth": depth, "model.shortcut": shortcut}, f"both-{depth}")
        for depth in depths
        for name, shortcut in SHORTCUTS.items()
    }
    title, rates = "Shortcuts around one convolution", (0.02, 0.05, 0.1)
    return Study(title, base, arms, f"both-{depths[0]}", learning_rates=rates, grid_seeds=3)
