"""ResNet-110 on CIFAR-10 with the recipe of He 2016 (https://arxiv.org/abs/1603.05027), original blocks.

Expected: 6.61 % test error (Table 2, median of 5 runs), trained on all 50,000 images.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar10_he2016.py --workdir=runs/he2016
"""

from configs.cifar10_resnet110 import get_config as resnet110
from resnet.config import Config


def get_config() -> Config:
    config = resnet110()
    # What differs from He 2015, by the authors' code (github.com/KaimingHe/resnet-1k-layers); that code has
    # Nesterov's momentum and other milestones too, where the paper has those of He 2015 and a warm-up.
    config.data.normalization, config.data.validation = "channel", 0.0
    config.model.kernel_init = "he_fan_out"
    config.model.stride_at = "first"  # of bottlenecks
    config.optimizer.decay = "all"
    return config
