"""Pre-activation ResNet-164 on CIFAR-10 as in He 2016 (https://arxiv.org/abs/1603.05027).

Expected: 5.46 % test error (Table 2, median of 5 runs), trained on all 50,000 images.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar10_preact164.py --workdir=runs/preact164
"""

from configs.cifar10_he2016 import get_config as he2016
from resnet.config import Config


def get_config() -> Config:
    config = he2016()
    config.model.depth = 164
    config.model.branch, config.model.activation_order = "bottleneck", "preactivation"
    config.model.transition = "projection"
    return config
