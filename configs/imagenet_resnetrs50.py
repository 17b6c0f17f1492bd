"""ResNet-RS-50 on ImageNet at 160 pixels for 350 epochs (Bello 2021, arXiv 2103.07579).

Source: https://github.com/tensorflow/tpu, models/official/resnet/resnet_rs, configs/resnetrs50_i160.yaml.
Expected: 78.8 % top-1 by that repository, 79.1 by tensorflow/models; a band of 0.4. Not run here yet. Theirs
draws from a list of operations of its own, of which RandAugment here has all but cutout, resizes bicubically,
and decays biases too.
Hardware: eight GPUs; train.accumulate lets fewer take a batch in parts.
Command: python scripts/train.py --config=configs/imagenet_resnetrs50.py --workdir=runs/resnetrs50 \
    --config.data.dir=FOLDER
"""

from configs.imagenet_resnet50 import get_config as resnet50
from resnet.config import Config


def get_config() -> Config:
    config = resnet50()
    config.data.image_size, config.data.eval_crop = 160, 160 / 192
    config.data.augmentation = ("timm_rand_augment 2 10 0 original 1.0",)
    config.model.stem, config.model.transition = "deep_strided", "average_projection"
    config.model.se_ratio, config.model.head_dropout, config.model.bn_momentum = 0.25, 0.25, 0.0
    config.model.zero_gamma, config.optimizer.nesterov = True, True
    config.schedule.name, config.schedule.learning_rate, config.schedule.milestones = "cosine", 1.6, ()
    config.schedule.warmup, config.schedule.warmup_factor = "5 epochs", 0.0
    config.optimizer.weight_decay, config.optimizer.decay = 4e-5, "kernels"
    config.train.batch_size, config.train.duration = 4096, "350 epochs"
    config.train.label_smoothing, config.train.ema = 0.1, 0.9999
    return config
