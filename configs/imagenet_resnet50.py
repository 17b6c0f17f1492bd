"""ResNet-50 on ImageNet, 90 epochs with a batch of 256, as torchvision trained its first weights.

Source: https://github.com/pytorch/vision, references/classification, weights of version 1.
Expected: 76.13 % top-1 as published; reruns of it gave 75.4 to 75.9 (pytorch/vision#5593). Not run here yet.
Theirs normalised the 32 images of each of eight GPUs by themselves: model.ghost_batch=32 does so.
Hardware: one large GPU, and the processor cores that decode for it (docs/data.md).
Command: python scripts/train.py --config=configs/imagenet_resnet50.py --workdir=runs/resnet50 \
    --config.data.dir=FOLDER  (holds train/ and val/, or ILSVRC2012_img_train.tar and _val.tar)
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name, config.data.dir = "image_folder", "imagenet"
    config.data.image_size, config.data.random_resized_crop, config.data.eval_crop = 224, 0.08, 0.875
    config.data.mean, config.data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.data.flip = True
    config.model.family = config.model.stem = "imagenet"
    config.model.depth, config.model.branch, config.model.transition = 50, "bottleneck", "projection"
    config.schedule.name, config.schedule.learning_rate = "step", 0.1
    config.schedule.milestones, config.schedule.factor = ("30 epochs", "60 epochs"), 0.1
    config.optimizer.momentum, config.optimizer.weight_decay = 0.9, 1e-4
    config.train.batch_size, config.train.duration = 256, "90 epochs"
    return config
