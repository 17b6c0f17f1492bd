"""ResNet-20, 32, 44 and 56 on CIFAR-10 as in He 2015 (https://arxiv.org/abs/1512.03385, section 4.2).

Expected: 8.75, 7.51, 7.17 and 6.97 % test error (Table 6), on the paper's 45,000/5,000 split.
Hardware: one GPU; two CPU cores take about 60 s (AVX-512) to 95 s (AVX2) for an epoch of ResNet-20.
Command: python scripts/train.py --config=configs/cifar10_resnet.py --workdir=runs/resnet56 \
    --config.model.depth=56
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name, config.data.validation = "cifar10", 0.1
    config.data.normalization = "pixel_mean"
    config.data.random_crop, config.data.flip = 4, True
    config.model.depth = 20
    config.model.kernel_init = "he_fan_in"  # the default of Caffe, in which the paper was done
    config.model.ghost_batch = 64  # two GPUs shared a batch
    config.schedule.name, config.schedule.learning_rate = "step", 0.1
    config.schedule.milestones, config.schedule.factor = ("32000 steps", "48000 steps"), 0.1
    config.optimizer.momentum, config.optimizer.weight_decay = 0.9, 1e-4
    config.optimizer.decay = "kernels"
    config.train.batch_size = 128
    config.train.duration = "64000 steps"
    return config
