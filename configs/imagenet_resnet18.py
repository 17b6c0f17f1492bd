"""ResNet-18 on ImageNet, 90 epochs, as torchvision trained it.

Source: https://github.com/pytorch/vision, references/classification, weights of version 1.
Expected: 69.76 % top-1 as published, 69.57 from fb.resnet.torch; runs differ by 0.4. Not run here yet.
Hardware: one large GPU, and the processor cores that decode for it (docs/data.md).
Command: python scripts/train.py --config=configs/imagenet_resnet18.py --workdir=runs/resnet18 \
    --config.data.dir=FOLDER
"""

from configs.imagenet_resnet50 import get_config as resnet50
from resnet.config import Config


def get_config() -> Config:
    config = resnet50()
    config.model.depth, config.model.branch = 18, "basic"
    return config
