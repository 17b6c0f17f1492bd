"""The smallest net that shows whether a point of the grammar trains: ResNet-8, half as wide, on digits.

Source: a recipe of ours, for configs/studies/grammar.py, which sets shortcut and order.
Expected: see results/studies/grammar/report.md.
Hardware: two CPU cores, a few seconds.
Command: python scripts/train.py --config=configs/digits_grammar.py --workdir=runs/digits_grammar
"""

from configs.digits import get_config as digits
from resnet.config import Config


def get_config() -> Config:
    config = digits()
    config.model.depth, config.model.width = 8, 0.5
    config.schedule.learning_rate = 0.05
    config.train.duration = "4 epochs"
    return config
