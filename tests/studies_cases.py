"""A study that takes seconds: two tiny nets on a few digits."""

from resnet.config import Config
from resnet.studies.study import Arm, Study


def tiny_config() -> Config:
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.blocks, config.model.width = (1, 1, 1), 0.25
    config.train.batch_size, config.train.duration, config.train.log_every = 16, "8 steps", "2 steps"
    config.checkpoint.every = "2 steps"
    return config


def tiny_study(**fields) -> Study:
    arms = {"identity": Arm(), "none": Arm({"model.shortcut": "none"})}
    defaults = {
        "title": "Tiny",
        "base": tiny_config(),
        "arms": arms,
        "reference": "identity",
        "seeds": (0, 1),
    }
    return Study(**(defaults | fields))
