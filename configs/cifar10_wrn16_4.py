"""Wide ResNet WRN-16-4 on CIFAR-10 (Zagoruyko 2016, https://arxiv.org/abs/1605.07146).

Expected: 5.02 % test error (median of 5 runs), trained on all 50,000 images.
Hardware: one GPU.
Command: python scripts/train.py --config=configs/cifar10_wrn16_4.py --workdir=runs/wrn16_4
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name, config.data.validation = "cifar10", 0.0
    config.data.random_crop, config.data.random_crop_fill, config.data.flip = 4, "reflect", True
    config.model.family, config.model.depth, config.model.width = "wide", 16, 4.0
    config.model.stem_width = 16
    config.model.activation_order, config.model.transition = "preactivation", "projection"
    config.schedule.name, config.schedule.learning_rate = "step", 0.1
    config.schedule.milestones = ("60 epochs", "120 epochs", "160 epochs")
    config.schedule.factor = 0.2
    config.optimizer.momentum, config.optimizer.nesterov = 0.9, True
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 128
    config.train.duration = "200 epochs"
    return config
