"""A tiny run whose state can be divided; scripts take this file as a config."""

from resnet.config import Config

LEAST = 64
DIVIDED = {"parallel.shard_parameters": LEAST}


def get_config() -> Config:
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.family, config.model.blocks, config.model.width = "chain", (3,), 1.0
    config.train.batch_size, config.train.ema, config.train.duration = 8, 0.9, "4 steps"
    config.train.log_every, config.checkpoint.every = "1 steps", "2 steps"
    config.schedule.name, config.schedule.learning_rate = "constant", 0.01
    return config
