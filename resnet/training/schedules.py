"""What follows from the step: the learning rate, what is due, and how large the images are."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from absl import logging
from jaxtyping import Array, Float, Int

from resnet.durations import parse_duration
from resnet.errors import InputError, check_at_least, check_choice
from resnet.fields import Fields
from resnet.training.config import TrainConfig

Schedule = Callable[[Any], Array]


@dataclasses.dataclass(unsafe_hash=True)
class ScheduleConfig(Fields, section="schedule"):
    """The learning rate as a function of the step."""

    name: str = "cosine"
    """How the rate falls: cosine, linear, quadratic (to zero at the end), step (at milestones), constant."""
    learning_rate: float = 0.1
    """Peak learning rate, reached after the warm-up."""
    warmup: str = "0 steps"
    """How long the warm-up lasts, e.g. "400 steps", "1 epochs", "5 %"."""
    warmup_kind: str = "linear"
    """linear: the rate grows from warmup_factor times the peak to the peak; constant: it stays there."""
    warmup_factor: float = 0.1
    """Share of the peak at which the warm-up starts (He 2016: 0.1, constant, for 400 steps)."""
    milestones: tuple[str, ...] = ()
    """Durations from the start at which the step schedule multiplies the rate by factor."""
    factor: float = 0.1
    """What the step schedule multiplies the rate by at each milestone."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_choice("schedule.name", self.name, SCHEDULES)
        check_choice("schedule.warmup_kind", self.warmup_kind, ("linear", "constant"))
        check_at_least("schedule.learning_rate", self.learning_rate, 0)
        check_at_least("schedule.warmup_factor", self.warmup_factor, 0)
        check_at_least("schedule.factor", self.factor, 0)
        warmup = parse_duration("schedule.warmup", self.warmup)
        if warmup.unit == "%" and warmup.amount >= 100:
            raise InputError(f"`schedule.warmup` must end before the training does; got {self.warmup!r}")
        for milestone in self.milestones:
            parse_duration("schedule.milestones", milestone)
        if self.name == "step" and not self.milestones:
            raise InputError(
                "`schedule.milestones` must be given for `schedule.name` 'step', such as ('50 %', '75 %')"
            )
        if self.name != "step" and self.milestones:
            raise InputError(
                f"`schedule.milestones` are for `schedule.name` 'step' alone; got {self.milestones!r} with "
                f"{self.name!r}"
            )

    def idle(self) -> dict[str, str]:
        """Fields that have no effect beside the others, and what each of them is for."""
        found = {} if self.name == "step" else {"factor": "`schedule.name` step"}
        if not parse_duration("schedule.warmup", self.warmup).amount:
            found |= dict.fromkeys(("warmup_kind", "warmup_factor"), "a `schedule.warmup` above 0 steps")
        return found


def _cosine(progress, step, milestones, factor):
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983)."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _linear(progress, step, milestones, factor):
    """A straight line from 1 to 0."""
    return 1.0 - progress


def _quadratic(progress, step, milestones, factor):
    """The square of a straight line from 1 to 0: the polynomial of power 2 of MLPerf's LARS."""
    return jnp.square(1.0 - progress)


def _step(progress, step, milestones, factor):
    """Multiplied by `factor` at each milestone (He 2015, section 4.2)."""
    passed = sum(jnp.where(step >= milestone, 1.0, 0.0) for milestone in milestones)
    return jnp.float32(factor) ** passed


def _constant(progress, step, milestones, factor):
    """Always 1."""
    return jnp.ones_like(progress)


SCHEDULES = {
    "cosine": _cosine,
    "linear": _linear,
    "quadratic": _quadratic,
    "step": _step,
    "constant": _constant,
}


def make_schedule(
    config: ScheduleConfig, *, batch_size: int, steps_per_epoch: int, total_steps: int
) -> Schedule:
    """The learning rate of the update that follows `step` finished ones, by the config as it is now.

    Raises InputError for a field that cannot work, and for a warm-up that lasts as long as the training.
    """
    config.check()
    config = copy.copy(config)

    def in_steps(field, text):
        return parse_duration(field, text).steps(
            batch_size=batch_size, steps_per_epoch=steps_per_epoch, total_steps=total_steps
        )

    warmup = in_steps("schedule.warmup", config.warmup)
    if warmup >= total_steps > 0:
        raise InputError(
            f"`schedule.warmup` must end before the training does; got {config.warmup!r} "
            f"({warmup} steps) of {total_steps} steps"
        )
    # Those past the end are never reached, and may be too large for the device.
    milestones = [min(in_steps("schedule.milestones", text), total_steps) for text in config.milestones]
    pairs = zip(config.milestones, milestones, strict=True)
    if late := [text for text, milestone in pairs if milestone == total_steps > 0]:
        logging.warning("the learning rate does not fall at %s, since the training ends at step %d",
                        " and ".join(late), total_steps)  # fmt: skip
    shape = SCHEDULES[config.name]
    slope = 1.0 - config.warmup_factor if config.warmup_kind == "linear" else 0.0

    def schedule(step: Int[Array, ""]) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0.0, 1.0)
        rising = config.warmup_factor + slope * step / max(warmup, 1)
        falling = shape(progress, step, milestones, config.factor)
        return config.learning_rate * jnp.where(step < warmup, rising, falling)

    return schedule


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How long the training is, how often something is due, and how long images are smaller, in steps."""

    total: int
    epoch: int
    log: int
    evaluate: int
    checkpoint: int
    telemetry: int
    """0: never."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(the first step without them, shorter side) of images that are smaller than the data set's."""

    def next_pause(self, step: int) -> int:
        """The first step after `step` at which the net is evaluated or saved, or images become larger."""
        due = [(step // every + 1) * every for every in (self.evaluate, self.checkpoint)]
        return min(self.total, *due, *(end for end, _ in self.sizes if end > step))

    def evaluates(self, step: int) -> bool:
        """Whether the net is evaluated on validation at this step: when it is due, and at the end."""
        return step % self.evaluate == 0 or step == self.total

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due at this step, whatever comes of its evaluation."""
        return step % self.checkpoint == 0 or step == self.total

    def side(self, step: int) -> int:
        """The shorter side of the images that the update after `step` finished ones sees; 0: the data's."""
        return next((side for end, side in self.sizes if step < end), 0)

    def steps_by_side(self) -> dict[int, int]:
        """How many updates see images of each shorter side; 0: the data's."""
        counts, begin = dict.fromkeys([*(side for _, side in self.sizes), 0], 0), 0
        for end, side in (*self.sizes, (self.total, 0)):
            counts[side] += max(min(end, self.total) - begin, 0)
            begin = end
        return {side: steps for side, steps in counts.items() if steps}


def make_intervals(train: TrainConfig, checkpoint_every: str, steps_per_epoch: int) -> Intervals:
    """The durations of a config in steps."""
    counts = {"batch_size": train.batch_size, "steps_per_epoch": steps_per_epoch}
    duration = parse_duration("train.duration", train.duration)
    total = duration.steps(**counts)
    if not 0 <= total < 2**31 or (total == 0 and duration.amount):
        raise InputError(
            f"`train.duration` must be at least one step, of {train.batch_size} images, and below 2**31, or "
            f"'0 steps' to evaluate what a run begins with; got {train.duration!r}"
        )

    def in_steps(field: str, text: str) -> int:
        """At least one step, unless the duration is 0."""
        given = parse_duration(field, text)
        return max(given.steps(**counts, total_steps=total), 1) if given.amount else 0

    return Intervals(
        total=total,
        epoch=steps_per_epoch,
        log=in_steps("train.log_every", train.log_every),
        evaluate=in_steps("train.evaluate_every", train.evaluate_every),
        checkpoint=in_steps("checkpoint.every", checkpoint_every),
        telemetry=in_steps("train.telemetry_every", train.telemetry_every),
        sizes=tuple((in_steps("train.smaller_until", end), side) for end, side in train.smaller_until),
    )
