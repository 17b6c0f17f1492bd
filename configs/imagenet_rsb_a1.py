"""ResNet-50 on ImageNet for 600 epochs: A1 of "ResNet strikes back" (Wightman 2021, arXiv 2110.00476).

Expected: 80.4 % top-1 (timm 80.38; mmpretrain's own run 80.12); a band of 0.4. Not run here yet.
Hardware: four or eight GPUs; train.accumulate lets fewer take a batch in parts.
Command: python scripts/train.py --config=configs/imagenet_rsb_a1.py --workdir=runs/rsb_a1 \
    --config.data.dir=FOLDER
"""

from configs.imagenet_rsb_a2 import get_config as rsb_a2
from resnet.config import Config


def get_config() -> Config:
    config = rsb_a2()
    config.optimizer.weight_decay = 0.01
    config.train.duration, config.train.mixup = "600 epochs", 0.2
    config.train.label_smoothing, config.train.target_threshold = 0.1, 0.0
    return config
