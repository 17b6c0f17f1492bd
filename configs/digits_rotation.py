"""By which angle was a digit turned? Regression, with the identity as the output function.

Source: a task of ours on scikit-learn's digits, each turned by an angle within ±45 degrees (16x16 pixels).
Expected: mean absolute error on the test images in degrees, see results/digits_rotation.md.
Hardware: two CPU cores, a few minutes.
Command: python scripts/train.py --config=configs/digits_rotation.py --workdir=runs/digits_rotation
"""

from configs.digits import get_config as digits
from resnet.config import Config


def get_config() -> Config:
    config = digits()
    config.data.name = "digits_rotation"
    config.model.output = "identity"
    config.schedule.learning_rate = 0.02
    return config
