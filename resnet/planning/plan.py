"""A plan: whether a training fits a target, how long it takes there, and what its step does."""

import dataclasses
from typing import Any

from resnet.config import Config
from resnet.data.images import shrunk_shape
from resnet.data.splits import Dataset
from resnet.models.counts import count_parts, totals
from resnet.planning.compiling import Compiled, TooLarge, compile_step, trainer_on
from resnet.planning.figures import Cost, collectives, costs, kernels, seconds
from resnet.planning.findings import findings
from resnet.planning.targets import Target
from resnet.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler of a target says of a training there."""

    target: Target
    config: Config
    compiled: Compiled | None
    """None where the step does not fit."""
    reason: str
    """Why it does not fit."""
    macs: int
    """Multiply-accumulates of the net for one image."""
    hours: float
    """Least, of all steps; those that see smaller images (`train.smaller_until`) are compiled too."""

    @property
    def costs(self) -> list[Cost]:
        """Of one step on one device."""
        return costs(self.compiled.program) if self.compiled else []

    @property
    def times(self) -> dict[str, float]:
        """Least seconds of a step, by what they are spent on; the largest binds."""
        return seconds(self.compiled, self.target.chip, self.macs) if self.compiled else {}

    @property
    def fits(self) -> bool:
        """Whether a device's memory holds what the step takes."""
        return self.compiled is not None and self.compiled.peak <= self.target.chip.memory

    def record(self) -> dict[str, Any]:
        """The plan as a JSON object: bytes of one device, seconds of one step."""
        about = {"target": self.target.name, "fits": self.fits}
        compiled = self.compiled
        if compiled is None:
            return about | {"reason": self.reason}
        times, trainer = self.times, compiled.trainer
        batch = self.config.train.batch_size * self.config.train.seeds
        bound = max(times, key=lambda name: times[name])
        memory = {"state": compiled.state, "images": compiled.images} | compiled.memory
        return about | {
            "devices": trainer.mesh.size,
            "batch_size": self.config.train.batch_size,
            "seeds": self.config.train.seeds,
            "memory": memory | {"peak": compiled.peak, "available": int(self.target.chip.memory)},
            "seconds": times,
            "bound": bound,
            "images_per_second": batch / times[bound],
            "steps": trainer.intervals.total,
            "hours": self.hours,
            "bytes_moved": sum(cost.bytes for cost in self.costs),
            "cycles": sum(cost.cycles for cost in self.costs),
            "kernels": kernels(compiled.program),
            "compiler": compiled.counted,
            "collectives": collectives(compiled.program),
            "findings": findings(compiled),
            "costs": [dataclasses.asdict(cost) for cost in self.costs],
        }


def make_plan(config: Config, dataset: Dataset, target: Target) -> Plan:
    """Compiles one step for the target, which takes minutes for a large net."""
    return plan_of(trainer_on(config, dataset, target), target)


def plan_of(trainer: Trainer, target: Target) -> Plan:
    """The plan of a trainer on the target's devices."""
    config, macs = trainer.config, _macs(trainer)
    try:
        compiled = compile_step(trainer)
    except TooLarge as error:
        return Plan(target, config, None, str(error), macs, 0.0)
    spent = 0.0
    for side, steps in trainer.intervals.steps_by_side().items():
        step = compile_step(trainer, side) if side else compiled
        spent += steps * max(seconds(step, target.chip, _macs(trainer, side)).values())
    return Plan(target, config, compiled, "", macs, spent / 3600)


def _macs(trainer: Trainer, side: int = 0) -> int:
    """Multiply-accumulates for one image, whose shorter side is `side`; 0: as in the data."""
    shape = trainer.task.image_shape
    seen = shrunk_shape(shape, side or min(shape[:2]))
    return totals(count_parts(trainer.config.model, trainer.task.num_outputs, seen))[1]


def largest_batch(plan: Plan, dataset: Dataset) -> int | None:
    """Extrapolates the largest batch that should fit from this one and one of half its size.

    Memory is linear in it. If this one does not fit, two smaller ones are taken. The result is no larger than
    the training split, and divides evenly among the devices, and on each into parts, ghost batches and pairs;
    None if half of this batch does not fit either.
    """
    devices = plan.compiled.trainer.mesh.shape["data"] if plan.compiled else len(plan.target.devices())
    train = plan.config.train
    unit = plan.config.unit_of_batch(devices)
    whole = train.batch_size
    half = whole // 2 // unit * unit
    if not half:
        return None
    smaller = dataclasses.replace(plan.config, train=dataclasses.replace(train, batch_size=half))
    other = make_plan(smaller, dataset, plan.target)
    if other.compiled is None:
        return None
    if plan.compiled is None:  # On the line of two smaller ones, and below this one.
        found = largest_batch(other, dataset)
        return min(found, (whole - 1) // unit * unit) if found else half
    each = (plan.compiled.peak - other.compiled.peak) / (whole - half)
    if each <= 0:
        return whole
    room = plan.target.chip.memory - plan.compiled.peak
    return max(min(int(whole + room / each), len(dataset.train)), 0) // unit * unit or None
