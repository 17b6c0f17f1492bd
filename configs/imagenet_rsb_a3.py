"""ResNet-50 on ImageNet for 100 epochs: A3 of "ResNet strikes back" (Wightman 2021, arXiv 2110.00476).

Expected: 78.1 % top-1 (timm 78.05; mmpretrain's own run 78.30); a band of 0.4. Not run here yet.
Hardware: four GPUs; train.accumulate lets fewer take a batch in parts.
Command: python scripts/train.py --config=configs/imagenet_rsb_a3.py --workdir=runs/rsb_a3 \
    --config.data.dir=FOLDER
"""

from configs.imagenet_rsb_a2 import get_config as rsb_a2
from resnet.config import Config


def get_config() -> Config:
    config = rsb_a2()
    config.data.image_size, config.data.eval_size, config.data.repeats = 160, 224, 1
    config.data.augmentation = ("timm_rand_augment 2 6 0.5",)
    config.model.stochastic_depth = 0.0
    config.schedule.learning_rate, config.schedule.warmup_factor = 8e-3, 0.0125
    config.train.duration = "100 epochs"
    return config
