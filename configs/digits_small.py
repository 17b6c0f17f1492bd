"""ResNet-20, half as wide, on digits: what a study can afford many times on two CPU cores.

Source: a recipe of ours, the base of the studies at small scale.
Expected: about 98.5 % test accuracy; results/studies/ has the studies.
Hardware: two CPU cores, about 10 s with compilation.
Command: python scripts/train.py --config=configs/digits_small.py --workdir=runs/digits_small
"""

from configs.digits import get_config as digits
from resnet.config import Config


def get_config() -> Config:
    config = digits()
    config.model.width = 0.5
    config.schedule.learning_rate = 0.05
    config.train.duration = "15 epochs"
    config.checkpoint.every, config.checkpoint.keep = "50 %", 1
    return config
