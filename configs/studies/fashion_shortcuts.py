"""What may stand on the shortcut of a deep net on photographs? Six shortcuts at 56 layers on Fashion-MNIST.

Each net at its best of five or more learning rates, chosen on validation by three seeds.
Source: He 2016 (arXiv 1603.05027), Table 1, which asks this of ResNet-110 on CIFAR-10; data and recipe are
ours. Exclusive gating starts from -6, its best first bias there.
Command: python scripts/study.py --study=configs/studies/fashion_shortcuts.py --workdir=runs/fashion_shortcuts
--study.scale=small
"""

from configs.fashion_small import get_config as fashion
from resnet.studies.study import Arm, Published, Study

SHORTCUT, FAIL = "model.shortcut", Published(above=20, words="fail (> 20 %)")
ERRORS = {"identity": 6.61, "half-both": 12.35, "conv1x1": 12.22, "exclusive-bias-6": 8.70}


def get_study(scale: str) -> Study:
    base = fashion()
    base.model.depth = {"paper": 110, "small": 56}[scale]
    if scale == "paper":
        base.model.width, base.data.train_limit = 1.0, 0
    changes = {"identity": {}, "none": {SHORTCUT: "none"}, "conv1x1": {SHORTCUT: "projection"}}
    changes["half-both"] = {SHORTCUT: "constant_scaling", "model.shortcut_scale": 0.5}
    changes["exclusive-bias-6"] = {SHORTCUT: "exclusive_gating", "model.gate_bias": -6.0}
    changes["dropout"] = {SHORTCUT: "dropout"}
    published = {name: Published(error, words="median of 5") for name, error in ERRORS.items()}
    arms = {name: Arm(own, published=published.get(name, FAIL)) for name, own in changes.items()}
    title, rates = "Six shortcuts at 56 layers, on Fashion-MNIST", (0.01, 0.03, 0.1, 0.3, 1.0)
    paper, table = "He 2016 (arXiv 1603.05027)", "Table 1, on other data"
    return Study(title, base, arms, "identity", learning_rates=rates, grid_seeds=3, paper=paper, table=table)
