"""Gated highways against residual nets with equally many parameters.

Source: github flukeskywalker/highway-resnet-comparison, CIFAR-10, one run each: ResNet-110 93.75 %,
Highway-110 at width 0.875 93.96 % with 1.5 times the parameters. He 2015, Table 6: Highway-19
7.72 ± 0.16 % error. He 2016 says that gates on the shortcut hurt; here parameters match.
Command: python scripts/study.py --study=configs/studies/highway.py --workdir=runs/highway
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.budget import Match
from resnet.studies.study import Arm, Published, Study


def get_study(scale: str) -> Study:
    base, depth = {"paper": (cifar10(), 110), "small": (digits(), 20)}[scale]
    published = Published(6.25, words="93.75 %, one run", same_recipe=False)
    arms = {"resnet": Arm({"model.depth": depth}, published=published)}
    for bias in (-6.0, -2.0):
        # As there: no function after the sum.
        gated = {"model.shortcut": "highway", "model.gate_bias": bias, "model.after_sum": "identity"}
        changes = gated | {"model.depth": depth}
        arms[f"highway{bias:g}"] = Arm(changes)
        arms[f"highway{bias:g}-narrow"] = Arm(changes, match=Match("resnet", "parameters", by="width"))
    title = "Highways against residual nets"
    return Study(
        title, base, arms, "resnet", paper="flukeskywalker/highway-resnet-comparison", table="README"
    )
