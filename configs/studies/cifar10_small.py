"""What do shortcut and order do on colour photographs? Four nets at two depths, half as wide, for 30 epochs.

Each net at its best rate of one grid, chosen on validation by the first of three seeds. The overrides below
take CIFAR-10 saved as JPEG, where accuracies are some points lower and compare with each other alone. A run
of 20 layers takes 20 to 45 minutes of a processor with AVX-512, of 56 three times that; there are 40 or more.
Source: He 2015 (arXiv 1512.03385), section 4.2, and He 2016 (arXiv 1603.05027) for the order; else ours.
Command: python scripts/study.py --study=configs/studies/cifar10_small.py --workdir=runs/cifar10_small
--study.scale=small --config.data.name=image_folder --config.data.dir=FOLDER --config.data.image_size=32
"""

from configs.cifar10_resnet import get_config as cifar10
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base = cifar10()
    if scale == "small":
        base.model.width, base.train.duration, base.schedule.milestones = 0.5, "30 epochs", ("50 %", "75 %")
    changes = {"identity": {}, "none": {"model.shortcut": "none"}}
    changes["projection"] = {"model.transition": "projection"}
    changes["preactivation"] = {"model.activation_order": "preactivation"}
    arms = {
        f"{name}-{depth}": Arm({"model.depth": depth} | change, f"identity-{depth}")
        for depth in (20, 56)
        for name, change in changes.items()
    }
    title, rates = "Four nets at two depths, on colour photographs", (0.03, 0.1, 0.3)
    return Study(title, base, arms, "identity-20", (0, 1, 2), rates, grid_seeds=1)
