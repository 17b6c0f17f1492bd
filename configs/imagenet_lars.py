"""ResNet-50 on ImageNet by LARS in 41 epochs with batches of 2,048, as MLPerf's reference trains it.

Source: https://github.com/mlcommons/training, image_classification/README.md.
Expected: 75.9 % top-1, the target at which it stops. Not run here yet. Theirs has |g| + decay |w| under the
ratio, where this has |g + decay w|.
Hardware: eight GPUs; train.accumulate lets fewer take a batch in parts.
Command: python scripts/train.py --config=configs/imagenet_lars.py --workdir=runs/lars \
    --config.data.dir=FOLDER
"""

from configs.imagenet_resnet50 import get_config as resnet50
from resnet.config import Config


def get_config() -> Config:
    config = resnet50()
    config.schedule.name, config.schedule.learning_rate, config.schedule.milestones = "quadratic", 8.5, ()
    config.schedule.warmup, config.schedule.warmup_factor = "5 epochs", 0.0
    config.optimizer.name, config.optimizer.adapt, config.optimizer.decay = "lars", "kernels", "kernels"
    config.optimizer.weight_decay = 2e-4
    config.train.batch_size, config.train.duration, config.train.label_smoothing = 2048, "41 epochs", 0.1
    return config
