"""WRN-16-4 on CIFAR-10 in 16 epochs, by the means of airbench (Jordan 2024, arXiv 2404.00498).

Source: https://github.com/KellerJordan/cifar10-airbench, airbench96.py. The net, the learning rate, the
factor on the biases and the average, which takes the place of Lookahead, are ours. Each means is a field
of its own, off by default. Published for airbench's own net: 96.03 % in 34.7 s and 4.9e15 FLOPs on an A100.
Expected: not measured yet. Hardware: one GPU; the 16 epochs take 2.0e15 FLOPs.
Command: python scripts/train.py --config=configs/cifar10_fast.py --workdir=runs/cifar10_fast
"""

from configs.cifar10_wrn16_4 import get_config as wrn16_4
from resnet.config import Config


def get_config() -> Config:
    config = wrn16_4()
    config.model.stem_width, config.init_whitened = 54, 5_000  # 27 axes of 3x3 patches, with both signs
    config.freeze = "^stem/conv1/kernel$"
    config.data.flip, config.data.alternate_flip, config.data.eval_flip = False, True, True
    config.data.cutout = 12
    config.schedule.name, config.schedule.learning_rate, config.schedule.milestones = "linear", 0.8, ()
    config.schedule.warmup, config.schedule.warmup_factor = "10 %", 0.2
    config.optimizer.momentum, config.optimizer.decay = 0.85, "kernels"
    config.optimizer.lr_multipliers = ((r"norm\d*/bias$", 8.0),)
    config.train.batch_size, config.train.duration = 1024, "16 epochs"
    config.train.label_smoothing, config.train.ema, config.train.ema_every = 0.2, 0.99, 5
    return config
