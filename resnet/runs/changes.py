"""Which settings of a run may change when it is resumed: those that its numbers do not depend on."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from resnet.config import CONFIG_FILE, Config, differences, field_values, load_saved_config, replaced
from resnet.errors import InputError
from resnet.runs.checkpoints.checkpoint import steps_on_disk
from resnet.runs.metrics.records import RESULT, is_result, read_json
from resnet.runs.task import knows_its_data
from resnet.runtime.processes import index_of_this
from resnet.training.schedules import Schedule, make_intervals, make_schedule

OF_THE_MACHINE = ("parallel.", "cache.")
# Beginnings of fields, and why the numbers of a run do not depend on them.
MAY_CHANGE = {
    "parallel.": "how the processors share the work: of the numbers, only the rounding; but parts of a batch "
    "(`train.accumulate`) with batch norm, and random draws inside the net, are those of a device",
    "cache.": "where compiled programs are kept",
    "data.storage": "where the images are held; other mean and std of a stream are noticed",
    "data.memory_gb": "from which size on images are streamed",
    "data.bad_limit": "how many unreadable images end a run; what takes their places is the same",
    "records.": "what draws the metrics",
    "checkpoint.": "when the state is saved, and what is kept of it; a rollback goes back to what was due",
    "train.rollbacks": "how often a run goes back before it gives up; it says nothing of the steps between",
    "train.log_every": "how often a mean is written; the one that was begun goes on",
    "train.evaluate_every": "how often validation is looked at; it decides only which checkpoint is the best",
    "train.telemetry_every": "how often the blocks are looked at, by programs of their own",
    "train.steps_per_call": "how many steps are dispatched at once: of the numbers, at most the rounding",
    "model.scan_blocks": "whether equal blocks are compiled as one: of the numbers, at most the rounding",
}
# These may change together, if all learning rates and sizes of images of the run stay: it ends later then.
DURATION, SCHEDULE = "train.duration", "schedule."
AT_ONCE = 2**20  # steps whose rates are compared


def decisive(workdir: Path, here: Config) -> list[tuple[str, Any, Any]]:
    """(field, value there, value here) of the differences that decide the numbers of the run in `workdir`.

    The folder of the data is not among them if the run would notice other data.
    """
    known = ["data.dir"] if knows_its_data(workdir) else []
    found = differences(load_saved_config(workdir), here)
    return [each for each in found if not (may_change(each[0]) or each[0] in known)]


def what_decides(config: Config) -> Config:
    """The config with each field that decides no number at its default."""
    defaults = field_values(Config())
    return replaced(config, {name: value for name, value in defaults.items() if may_change(name)})


def may_change(field: str) -> bool:
    """Whether the numbers of a run do not depend on a field such as "cache.dir"."""
    return field.startswith(tuple(MAY_CHANGE))


def may_differ_elsewhere(field: str) -> bool:
    """Whether runs on the same images have the same numbers where a field differs, such as their folder."""
    return may_change(field) or field == "data.dir"


def same_end(workdir: Path, config: Config) -> bool:
    """Whether `config` ends the run in `workdir` at the same step as the run's own config.

    If it does not, `check_longer` tells whether the run can go on. InputError if the run is another one.
    """
    found = decisive(workdir, config)
    names = [name for name, _, _ in found]
    if DURATION in names and all(name == DURATION or name.startswith(SCHEDULE) for name in names):
        return False
    if found:
        raise InputError(
            f"{workdir} holds a run that differs in {_listed(found)}; {start_elsewhere(workdir)}"
        )
    return True


def start_elsewhere(workdir: Path) -> str:
    """Advice at the end of an error message about `workdir`, which holds a run: how to train elsewhere."""
    if not steps_on_disk(workdir):
        return f"choose another workdir, or remove {workdir}, which has no checkpoint yet"
    return f"choose another workdir, and start there from these weights by --config.init_from={workdir}"


def check_longer(workdir: Path, config: Config, steps_per_epoch: int) -> None:
    """InputError if `config` gives the run in `workdir` another end, and the run cannot go on to it.

    A run can go on if the learning rates of all its steps stay the same, and the sizes of its images. Rates
    change under the schedules that fall to the end (cosine, linear, quadratic), and under a warm-up or a
    milestone in % of a duration that grows; sizes in % of it change too.
    """
    if not (workdir / CONFIG_FILE).exists() or same_end(workdir, config):
        return
    there = load_saved_config(workdir)
    old, new = (
        make_intervals(each.train, each.checkpoint.every, steps_per_epoch) for each in (there, config)
    )
    changed = f"{workdir} holds a run that differs in {_listed(decisive(workdir, config))}"
    if new.total < old.total:
        raise InputError(f"{changed}: it can become longer, not shorter; {start_elsewhere(workdir)}")
    rates = [_rate(there, old.total, steps_per_epoch), _rate(config, new.total, steps_per_epoch)]
    for first in range(0, old.total, AT_ONCE):
        steps = jnp.arange(first, min(first + AT_ONCE, old.total))
        before, after = (np.asarray(jax.vmap(rate)(steps)) for rate in rates)
        if (before != after).any():
            at = int(np.argmax(before != after))
            raise InputError(
                f"{changed}: the learning rate of step {first + at + 1} was {before[at]:g} and would be "
                f"{after[at]:g}. The schedules constant and step can go on, with their durations in steps or "
                f"epochs; for others {start_elsewhere(workdir)}"
            )
    for step in sorted({end for end, _ in (*old.sizes, *new.sizes) if end < old.total} | {0}):
        if old.side(step) != new.side(step):
            raise InputError(
                f"{changed}: the side of images in step {step + 1} was {old.side(step)} and would be "
                f"{new.side(step)}, where 0 is the data's. With `train.smaller_until` in steps or epochs it "
                f"can go on; else {start_elsewhere(workdir)}"
            )


def keep_shorter_result(workdir: Path, config: Config) -> None:
    """Renames the result of a run that is to end later to result_step<n>.json; the first to be written."""
    if index_of_this() or not (workdir / CONFIG_FILE).exists() or same_end(workdir, config):
        return
    if result := read_json(workdir / RESULT, is_result, aside=True):
        kept = workdir / f"result_step{result['step']}.json"
        (workdir / RESULT).rename(kept)
        logging.info("%s goes on from step %d; its result so far is %s", workdir, result["step"], kept.name)


def _rate(config: Config, total: int, steps_per_epoch: int) -> Schedule:
    """The learning rate of each step."""
    counts = {"batch_size": config.train.batch_size, "steps_per_epoch": steps_per_epoch}
    return make_schedule(config.schedule, **counts, total_steps=total)


def _listed(found: list[tuple[str, Any, Any]]) -> str:
    return ", ".join(f"`{name}` ({old!r} there, {new!r} here)" for name, old, new in found)
