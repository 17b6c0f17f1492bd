"""Pre-activation ResNet-164 on CIFAR-100 as in He 2016 (https://arxiv.org/abs/1603.05027).

Expected: 24.33 % test error (median of 5 runs), trained on all 50,000 images.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar100_preact164.py --workdir=runs/cifar100_preact164
"""

from configs.cifar10_preact164 import get_config as cifar10
from resnet.config import Config


def get_config() -> Config:
    config = cifar10()
    config.data.name = "cifar100"
    return config
