"""The digits 0 to 4 alone: a source for fine-tuning to 5 to 9, which it never saw.

Source: a recipe of ours, see configs/studies/finetune.py.
Expected: 98.9 % of 180 test images (n = 1); results/finetune/digits.md has what it is good for.
Hardware: two CPU cores, about 10 s with compilation.
Command: python scripts/train.py --config=configs/digits_low.py --workdir=runs/digits_low
"""

from configs.digits_small import get_config as digits
from resnet.config import Config


def get_config() -> Config:
    config = digits()
    config.data.classes = ("0", "1", "2", "3", "4")
    config.data.mean, config.data.std = (0.305,), (0.376,)  # of all digits, for 25 images have their own
    return config
