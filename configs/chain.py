"""A chain of equal residual blocks, 40 of them on 8x8 pixels: the net that theory speaks about.

Source: a set-up of ours; wide, with circular borders, because zeros at the borders of small maps and
narrow layers lower every rate by some per cent.
Expected: growth per block as analysis/theory.py has it.
Hardware: two CPU cores, seconds.
Command: python scripts/analyze.py --question=signal --config=configs/chain.py --config.model.shortcut=none
"""

from resnet.config import Config


def get_config() -> Config:
    config = Config()
    config.data.name = "digits"
    config.model.family, config.model.blocks = "chain", (40,)
    config.model.width = 4.0
    config.model.padding = "circular"
    config.model.activation_order = "preactivation"
    return config
