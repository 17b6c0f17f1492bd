"""Does the best learning rate stay the same as a net gets wider? With one rate for all layers, or several.

Three widths, one grid for all; `rates.png` of the report shows each loss. `by-width` multiplies the
rates of the stem and the norms by N and that of the head by 1 / N, N the width over the narrowest; its head
starts at 0, in place of 1 / N. All nets compute x + F / sqrt(L).
Source: Yang 2021 (arXiv 2203.03466), Table 3, for SGD; data, nets and recipe are ours.
Command: python scripts/study.py --study=configs/studies/rate_transfer_width.py --workdir=runs/rates_by_width
"""

from configs.cifar10_resnet import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study

RATES = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4)


def get_study(scale: str) -> Study:
    base, depth = {"paper": (cifar10(), 20), "small": (digits(), 8)}[scale]
    base.model.activation_order, base.model.shortcut = "preactivation", "depth_scaled"
    # As in the table, the variance of a kernel is inverse to the number of its inputs.
    base.model.depth, base.model.kernel_init = depth, "he_fan_in"
    arms = {}
    for times in (1, 2, 4):
        width, same = {"model.width": times / 2}, f"one-rate-{8 * times}"
        rates = ((r"stem/|norm\d*/", float(times)), ("dense/kernel", 1 / times))
        by_width = width | {"optimizer.lr_multipliers": rates, "model.zero_head": True}
        arms |= {same: Arm(width, same), f"by-width-{8 * times}": Arm(by_width, same)}
    return Study("Learning rates over width", base, arms, "one-rate-8", (0, 1, 2), RATES)
