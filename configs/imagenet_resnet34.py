"""ResNet-34 on ImageNet, 90 epochs, as torchvision trained it.

Source: https://github.com/pytorch/vision, references/classification, weights of version 1.
Expected: 73.31 % top-1 as published, 73.27 from fb.resnet.torch; runs differ by 0.4. Not run here yet.
Hardware: one large GPU, and the processor cores that decode for it (docs/data.md).
Command: python scripts/train.py --config=configs/imagenet_resnet34.py --workdir=runs/resnet34 \
    --config.data.dir=FOLDER
"""

from configs.imagenet_resnet18 import get_config as resnet18
from resnet.config import Config


def get_config() -> Config:
    config = resnet18()
    config.model.depth = 34
    return config
