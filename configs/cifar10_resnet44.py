"""ResNet-44 on CIFAR-10 as in He 2015 (https://arxiv.org/abs/1512.03385, section 4.2).

Expected: 7.17 % test error (Table 6), on the paper's 45,000/5,000 split.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar10_resnet44.py --workdir=runs/resnet44
"""

from configs.cifar10_resnet20 import get_config as resnet20
from resnet.config import Config


def get_config() -> Config:
    config = resnet20()
    config.model.depth = 44
    return config
