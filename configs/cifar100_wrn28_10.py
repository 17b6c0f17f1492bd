"""Wide ResNet WRN-28-10 on CIFAR-100 (Zagoruyko 2016, https://arxiv.org/abs/1605.07146).

Expected: 19.25 % test error (median of 5 runs), trained on all 50,000 images; 18.85 with branch_dropout 0.3.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar100_wrn28_10.py --workdir=runs/cifar100_wrn28_10
"""

from configs.cifar10_wrn28_10 import get_config as cifar10
from resnet.config import Config


def get_config() -> Config:
    config = cifar10()
    config.data.name = "cifar100"
    return config
