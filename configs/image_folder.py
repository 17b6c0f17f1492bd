"""ResNet-20 on your own small images: train|validation|test/<class>/*.png or *.jpg in a folder.

Source: a recipe of ours, a start to vary. Images are resized to 32x32 pixels (data.image_size).
Expected: depends on the images; the training and validation curves are in curves.png.
Hardware: two CPU cores do for some thousand images, one GPU for more.
Command: python scripts/train.py --config=configs/image_folder.py --workdir=runs/mine \
    --config.data.dir=FOLDER
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name, config.data.dir = "image_folder", "images"
    config.data.image_size = 32
    config.data.random_crop, config.data.flip = 4, True
    config.model.depth = 20
    config.schedule.name, config.schedule.learning_rate = "cosine", 0.1
    config.schedule.warmup = "5 %"
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 128
    config.train.duration = "50 epochs"
    return config
