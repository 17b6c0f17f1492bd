"""ResNet-20 on scikit-learn's digits: 1,797 real 8x8 images, a first look in a minute.

Source: the CIFAR net of He 2015 (https://arxiv.org/abs/1512.03385, section 4.2), a recipe of ours.
Expected: 99.22 ± 0.36 % test accuracy (n = 5, results/digits_resnet20.md).
Hardware: two CPU cores, under 60 s with compilation.
Command: python scripts/train.py --config=configs/digits.py --workdir=runs/digits
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name = "digits"
    config.data.random_crop = 1
    config.model.depth = 20
    config.schedule.name = "cosine"
    config.schedule.learning_rate = 0.1
    config.schedule.warmup = "10 %"
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.train.batch_size = 64
    config.train.duration = "20 epochs"
    config.train.log_every = "1 epochs"
    return config
