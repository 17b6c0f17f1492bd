"""ResNet-56 on CIFAR-10 with the recipe of Li 2018 (https://arxiv.org/abs/1712.09913), projection shortcuts.

Expected: 5.89 % test error with shortcuts, 13.31 % without (Fig. 5), trained on all 50,000 images. Theirs
draws the last layer from N(0, 0.001²).
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar10_li2018.py --workdir=runs/li2018_resnet56
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name, config.data.validation = "cifar10", 0.0
    config.data.random_crop, config.data.flip = 4, True
    config.model.depth, config.model.transition = 56, "projection"
    config.model.kernel_init = "he_fan_in"
    config.schedule.name, config.schedule.learning_rate = "step", 0.1
    config.schedule.milestones = ("150 epochs", "225 epochs", "275 epochs")
    config.schedule.factor = 0.1
    config.optimizer.momentum, config.optimizer.nesterov = 0.9, True
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 128
    config.train.duration = "300 epochs"
    return config
