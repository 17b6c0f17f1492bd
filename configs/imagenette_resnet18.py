"""ResNet-18 at 128 pixels on imagenette, ten classes of ImageNet, in few epochs.

Source: a recipe of ours; crops of at least 0.35 of the area and smoothed labels are those of fastai's
baselines of the data set, https://github.com/fastai/imagenette.
Expected: results/imagenette.md, whose images were cut to 224 pixels before, so that no other compares.
Hardware: two CPU cores.
Command: python scripts/train.py --config=configs/imagenette_resnet18.py --workdir=runs/imagenette \
    --config.data.dir=FOLDER  (holds train/ and val/, or a tar of both)
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name, config.data.dir = "image_folder", "imagenette"
    config.data.image_size, config.data.random_resized_crop, config.data.eval_crop = 128, 0.35, 0.875
    config.data.mean, config.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.data.flip = True
    config.model.family = config.model.stem = "imagenet"
    config.model.depth, config.model.transition = 18, "projection"
    config.schedule.name, config.schedule.learning_rate, config.schedule.warmup = "cosine", 0.025, "10 %"
    config.optimizer.momentum, config.optimizer.weight_decay = 0.9, 5e-4
    config.train.batch_size, config.train.duration = 64, "3 epochs"
    config.train.label_smoothing = 0.1
    return config
