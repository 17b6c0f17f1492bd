"""Wide ResNet WRN-28-10 on CIFAR-10 (Zagoruyko 2016, https://arxiv.org/abs/1605.07146).

Expected: 4.00 % test error (median of 5 runs), trained on all 50,000 images.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar10_wrn28_10.py --workdir=runs/wrn28_10
"""

from configs.cifar10_wrn16_4 import get_config as wrn16_4
from resnet.config import Config


def get_config() -> Config:
    config = wrn16_4()
    config.model.depth, config.model.width = 28, 10.0
    return config
