"""ResNet-50 on ImageNet for 300 epochs: A2 of "ResNet strikes back" (Wightman 2021, arXiv 2110.00476).

Expected: 79.8 % top-1 (timm 79.83; mmpretrain's own run 79.55); a band of 0.4. Not run here yet. Theirs
resizes bicubically, in evaluation to 235 pixels (here 236), ends at a rate of 1e-6, pairs a batch with its
reverse and never drops the first branch.
Hardware: four or eight GPUs; train.accumulate lets fewer take a batch in parts.
Command: python scripts/train.py --config=configs/imagenet_rsb_a2.py --workdir=runs/rsb_a2 \
    --config.data.dir=FOLDER
"""

from configs.imagenet_resnet50 import get_config as resnet50
from resnet.config import Config


def get_config() -> Config:
    config = resnet50()
    config.data.eval_crop, config.data.repeats = 0.95, 3
    config.data.augmentation = ("timm_rand_augment 2 7 0.5",)
    config.model.stochastic_depth, config.model.stochastic_depth_each = 0.05, "image"
    config.model.output, config.model.zero_gamma = "sigmoid", True
    config.schedule.name, config.schedule.learning_rate, config.schedule.milestones = "cosine", 5e-3, ()
    config.schedule.warmup, config.schedule.warmup_factor = "5 epochs", 0.02
    config.optimizer.name, config.optimizer.adapt, config.optimizer.decay = "lamb", "kernels", "kernels"
    config.optimizer.weight_decay, config.optimizer.epsilon, config.optimizer.clip_norm = 0.02, 1e-6, 1.0
    config.train.batch_size, config.train.duration = 2048, "300 epochs"
    config.train.mixup, config.train.cutmix, config.train.target_threshold = 0.1, 1.0, 0.2
    return config
