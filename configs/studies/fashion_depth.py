"""Does the shortcut let depth train on photographs? Identity against none, over depths, on Fashion-MNIST.

Each net at its best of five or six learning rates, chosen on validation by three seeds.
Source: He 2015 (arXiv 1512.03385), Fig. 6, which asks this of CIFAR-10; the data and the recipe are ours.
Command: python scripts/study.py --study=configs/studies/fashion_depth.py --workdir=runs/fashion
--study.scale=small
"""

from configs.fashion_small import get_config as fashion
from resnet.studies.study import Arm, Published, Study

CLAIMS = dict.fromkeys((20, 56), Published(than_reference="worse", words="figure only"))


def get_study(scale: str) -> Study:
    base, depths = fashion(), {"paper": (8, 20, 56, 110), "small": (8, 20, 56)}[scale]
    if scale == "paper":
        base.model.width, base.data.train_limit = 1.0, 0
    arms = {}
    for depth in depths:
        arms[f"identity-{depth}"] = Arm({"model.depth": depth}, reference=f"identity-{depth}")
        plain = {"model.depth": depth, "model.shortcut": "none"}
        arms[f"none-{depth}"] = Arm(plain, f"identity-{depth}", published=CLAIMS.get(depth))
    title, rates = "Identity against none, over depth, on Fashion-MNIST", (0.01, 0.03, 0.1, 0.3, 1.0)
    paper, table = "He 2015 (arXiv 1512.03385)", "Fig. 6, on other data"
    return Study(
        title, base, arms, "identity-8", tuple(range(10)), rates, grid_seeds=3, paper=paper, table=table
    )
