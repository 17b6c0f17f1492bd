"""Amounts of training, given in steps, epochs, examples or per cent of the whole."""

import dataclasses
import math
import re

from resnet.errors import InputError

# More than any run has steps, and no float that rounds to no integer.
MOST = 2.0**62
UNITS = {"step": "steps", "epoch": "epochs", "example": "examples", "%": "%"}
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*(%|[a-z]+)\s*")


@dataclasses.dataclass(frozen=True)
class Duration:
    """An amount of training: `unit` is steps, epochs, examples, or % of the whole training."""

    amount: float
    unit: str

    def steps(self, *, batch_size: int, steps_per_epoch: int, total_steps: int | None = None) -> int:
        """The duration in whole optimiser steps, to the nearest; % needs `total_steps`."""
        if self.unit == "%":
            if total_steps is None:
                raise InputError(
                    "a duration in % is a share of `train.duration`, which itself must be in "
                    f"steps, epochs or examples; got '{self.amount:g} %'"
                )
            return round(min(self.amount / 100 * total_steps, MOST))
        steps = {"steps": 1.0, "epochs": steps_per_epoch, "examples": 1 / batch_size}
        return round(min(self.amount * steps[self.unit], MOST))


def check_interval(field: str, text: str) -> None:
    """Raises InputError unless `text` is a duration above 0: after each of these, something is due."""
    if not parse_duration(field, text).amount:
        raise InputError(f"`{field}` must be above 0; got {text!r}. What is longer than the run is never due")


def parse_duration(field: str, text: str) -> Duration:
    """Reads "20 epochs", "64000 steps", "128000 examples" or "10 %"; `field` names it in errors."""
    match = _DURATION.fullmatch(str(text))
    unit = UNITS.get(match[2].removesuffix("s")) if match else None
    if match is None or unit is None or not math.isfinite(float(match[1])):
        raise InputError(
            f"`{field}` must be an amount and a unit, such as '20 epochs', '64000 steps', "
            f"'128000 examples' or '10 %'; got {text!r}"
        )
    return Duration(float(match[1]), unit)
