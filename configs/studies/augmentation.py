"""What does augmentation bring on few photographs, and what does it cost? Six kinds on Fashion-MNIST.

All but `none` shift and flip; the others add one thing each. At small scale 1,000 images, 40 epochs.
Source: DeVries & Taylor 2017 (cutout, arXiv 1708.04552), Zhang 2018 (mixup, 1710.09412), Yun 2019 (CutMix,
1905.04899), Cubuk 2020 (RandAugment, 1909.13719) ask this of CIFAR and ImageNet; data and recipe are ours.
Command: python scripts/study.py --study=configs/studies/augmentation.py --workdir=runs/augmentation
--study.scale=small
"""

from configs.fashion_small import get_config as fashion
from resnet.studies.study import Arm, Study


def get_study(scale: str) -> Study:
    base = fashion()
    base.data.train_limit, base.train.batch_size, base.train.duration = {
        "paper": (0, 128, "100 epochs"),
        "small": (1_000, 64, "40 epochs"),
    }[scale]
    base.model.width = {"paper": 1.0, "small": 0.5}[scale]
    base.train.evaluate_every = "25 %"
    arms = {
        "none": Arm({"data.random_crop": 0, "data.flip": False}),
        "flip-shift": Arm(),
        "cutout": Arm({"data.cutout": 8}),
        "mixup": Arm({"train.mixup": 0.2}),
        "cutmix": Arm({"train.cutmix": 1.0}),
        "rand-augment": Arm({"data.augmentation": ("rand_augment 2 9",)}),
    }
    return Study("Six kinds of augmentation, on Fashion-MNIST", base, arms, "flip-shift", seeds=(0, 1, 2))
