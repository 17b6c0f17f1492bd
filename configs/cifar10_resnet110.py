"""ResNet-110 on CIFAR-10 as in He 2015 (https://arxiv.org/abs/1512.03385, section 4.2).

Expected: 6.61 ± 0.16 % test error (Table 6, n = 5), on the paper's 45,000/5,000 split.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar10_resnet110.py --workdir=runs/resnet110
"""

from configs.cifar10_resnet import get_config as resnet
from resnet.config import Config


def get_config() -> Config:
    config = resnet()
    config.model.depth = 110
    # At 0.1 from the start it converges late; the paper warms up with 0.01 until it does.
    config.schedule.warmup, config.schedule.warmup_kind = "400 steps", "constant"
    config.schedule.warmup_factor = 0.1
    return config
