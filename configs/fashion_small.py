"""ResNet-20, half as wide, on 20,000 images of Fashion-MNIST: photographs that two CPU cores can afford.

Source: a recipe of ours, the base of the studies on photographs. The 28x28 images are Zalando's (Xiao 2017,
arXiv 1708.07747); `apt-get install dataset-fashion-mnist` brings them on Debian and Ubuntu.
Expected: 90.29 % test accuracy (n = 1).
Hardware: two CPU cores: 2 min 18 s with AVX-512, start included; 11 s of steps an epoch with AVX2.
Command: python scripts/train.py --config=configs/fashion_small.py --workdir=runs/fashion_small
"""

from configs.digits import get_config as digits
from resnet.config import Config


def get_config() -> Config:
    config = digits()
    config.data.name, config.data.train_limit = "fashion_mnist", 20_000
    config.data.random_crop, config.data.flip = 2, True
    config.model.width = 0.5
    config.schedule.learning_rate = 0.05
    config.train.batch_size = 128
    config.train.duration = "15 epochs"
    config.checkpoint.every, config.checkpoint.keep = "20 %", 1
    return config
