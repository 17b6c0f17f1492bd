"""ResNet-50 on ImageNet with batches of 8,192 and a warm-up, as in Goyal 2017 (arXiv 1706.02677).

Expected: as good as batches of 256, says its abstract; colour jitter and lighting are fb.resnet.torch's. Not
run here yet.
Hardware: a machine of several GPUs; train.accumulate lets fewer take a batch in parts.
Command: python scripts/train.py --config=configs/imagenet_goyal2017.py --workdir=runs/goyal \
    --config.data.dir=FOLDER
"""

from configs.imagenet_resnet50 import get_config as resnet50
from resnet.config import Config


def get_config() -> Config:
    config = resnet50()
    config.data.augmentation = ("color_jitter 0.4 0.4 0.4", "lighting 0.1")
    config.model.zero_gamma = True
    config.model.ghost_batch = 32  # each of the 256 GPUs had 32 images and statistics of their own
    config.schedule.learning_rate = 3.2
    config.schedule.warmup, config.schedule.warmup_factor = "5 epochs", 1 / 32
    config.schedule.milestones = ("30 epochs", "60 epochs", "80 epochs")
    config.optimizer.nesterov, config.optimizer.decay = True, "kernels"
    config.train.batch_size = 8192
    return config
