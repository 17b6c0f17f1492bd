"""Does dropping whole branches in training help? Over the share that is dropped, and how it is spread.

Source: Huang 2016 (arXiv 1603.09382), CIFAR-10, ResNet-110: test error below, with all branches and
with the last one dropped half of the time (5.25 % in the authors' README); their 500 epochs.
What is dropped is drawn for each device, so runs on other numbers of devices differ.
Command: python scripts/study.py --study=configs/studies/stochastic_depth.py --workdir=runs/stochastic_depth
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.config import replaced
from resnet.studies.study import Arm, Published, Study

HUANG = {
    "train.duration": "500 epochs", "schedule.milestones": ("50 %", "75 %"), "schedule.warmup": "0 steps",
    "optimizer.nesterov": True, "optimizer.decay": "all", "model.pad_mode": "average", "model.ghost_batch": 0,
    "data.normalization": "channel",
}  # fmt: skip


def get_study(scale: str) -> Study:
    base, depth = {"paper": (replaced(cifar10(), HUANG), 110), "small": (digits(), 20)}[scale]
    arms = {"all": Arm({"model.depth": depth}, published=Published(6.41))}
    for rate, rule in ((0.2, "linear"), (0.5, "linear"), (0.5, "constant")):
        drop = {"model.stochastic_depth": rate, "model.stochastic_depth_rule": rule}
        published = Published(5.23) if (rate, rule) == (0.5, "linear") else None
        arms[f"drop-{rate}-{rule}"] = Arm({"model.depth": depth} | drop, published=published)
    return Study(
        "Stochastic depth", base, arms, "all", paper="Huang 2016 (arXiv 1603.09382)", table="Table 1"
    )
