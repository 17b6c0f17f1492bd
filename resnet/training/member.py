"""One seed of a run: its folder, its records, its checkpoints, and how it ends."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from resnet.config import FILE as CONFIG_FILE
from resnet.config import Config, differences, load_saved_config, save_config
from resnet.errors import InputError
from resnet.runs import checkpoint
from resnet.runs.curves import plot_curves
from resnet.runs.provenance import versions, write_run_json
from resnet.runs.records import METRICS_FILE, Records, write_json
from resnet.runs.saver import Saver
from resnet.runs.task import save_task
from resnet.runtime.meter import Meter
from resnet.runtime.processes import index_of_this
from resnet.runtime.signals import RunStopped
from resnet.training import telemetry
from resnet.training.divergence import ROLLBACK, SKIP, Diverged, check_state, offending, read_rollbacks
from resnet.training.evaluation import score
from resnet.training.plan import Plan

RESULT, FAILURE, SKIPPED = "result.json", "failed.json", "skipped_images.json"
# A run may be taken up with these changed: they decide its speed, not what it is.
OF_THE_MACHINE = ("parallel.", "cache.")


@dataclasses.dataclass
class Progress:
    """What a run remembers beside its state; saved with it."""

    step: int = 0
    best: float | None = None
    """Best score on validation so far."""
    validation: dict[str, float] | None = None
    """Latest metrics on validation."""
    unevaluated: bool = False
    """Whether the validation that is due at this step was interrupted."""
    seconds: float = 0.0
    """Time in the loop over all sessions, compilation and evaluation included."""


def outcome(workdir: Path, config: Config, retry: bool = False) -> dict[str, Any] | None:
    """The result of a run that is finished or, unless to `retry`, failed.

    InputError if the workdir is another run's.
    """
    if not (workdir / CONFIG_FILE).exists():
        if checkpoint.steps_on_disk(workdir):
            raise InputError(f"{workdir} has checkpoints but no {CONFIG_FILE}; choose another workdir")
        return None
    differing = [
        (name, old, new)
        for name, old, new in differences(load_saved_config(workdir), config)
        if not name.startswith(OF_THE_MACHINE)
    ]
    if differing:
        fields = ", ".join(f"`{name}` ({old!r} there, {new!r} here)" for name, old, new in differing)
        raise InputError(f"{workdir} holds a run that differs in {fields}; choose another workdir")
    for name in (RESULT,) if retry else (RESULT, FAILURE):
        if (workdir / name).exists():
            result = json.loads((workdir / name).read_text())
            done = "is finished" if name == RESULT else f"failed: {result['failed']}"
            logging.info("the run in %s %s (step %d): nothing to do", workdir, done, result["step"])
            return result | {"workdir": str(workdir)}  # It may have been moved.
    return None


class RollBack(Exception):
    """A run is to be taken up again from its last checkpoint, at a lower rate."""

    def __init__(self, workdir: Path, error: Diverged):
        super().__init__(str(error))
        self.workdir, self.error = workdir, error


class Member:
    """One of the runs that are trained together; alone, it is the run."""

    def __init__(self, config: Config, workdir: Path, plan: Plan, restored: dict[str, Any] | None):
        """`restored` is the metadata of the checkpoint to go on from."""
        self.config, self.workdir = config, workdir
        self.progress = Progress(**restored["progress"]) if restored else Progress()
        self.failed = ""
        again = {"test"} | ({"validation"} if self.progress.unevaluated else set())
        self.records = Records(workdir, plan.steps_per_epoch, self.progress.step, again)
        self.saver = Saver(workdir)
        write = functools.partial(self.records.write, split="train")
        self.rollbacks = read_rollbacks(workdir)
        policy = {"skips": config.train.on_divergence == SKIP, "spike_factor": config.train.spike_factor}
        self.meter = Meter(plan.log_every, plan.total_steps, write, **policy)
        self.meter.restore(restored["meter"] if restored else {})
        telemetry.forget_after(workdir, self.progress.step)

    def close(self) -> None:
        """Waits for the save in flight, whatever ends the run."""
        self.saver.close()
        self.records.close()

    def add(self, first_step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of one dispatch; Diverged if they did."""
        self.meter.add(first_step, metrics)

    def diverged(self, error: Diverged, params: Any) -> None:
        """Raises RollBack if the policy is to go back and try again; else the run goes no further."""
        train = self.config.train
        where = offending(params, error.norms)
        if train.on_divergence == ROLLBACK and len(self.rollbacks) < train.rollbacks:
            logging.warning("%s: %s; %s", self.workdir, error, where)
            raise RollBack(self.workdir, error)
        self.saver.wait()
        steps = checkpoint.steps_on_disk(self.workdir)
        last = f"the last good checkpoint is that of step {steps[0]}" if steps else "there is no checkpoint"
        tried = f" after {len(self.rollbacks)} rollbacks" if self.rollbacks else ""
        self.failed = (
            f"{error}{tried}; {where}{telemetry.last_words(self.workdir)}; {last}; lower "
            "`schedule.learning_rate`, add a warm-up, or set `optimizer.clip_norm` or `train.on_divergence`"
        )
        write_json(self.workdir / FAILURE, {"failed": self.failed, "step": self.progress.step})
        logging.error("%s: %s", self.workdir, self.failed)

    def validated(self, metrics: dict[str, float]) -> bool:
        """Records metrics on validation; whether they are the best so far."""
        progress = self.progress
        self.records.write(progress.step, metrics, "validation")
        progress.validation, progress.unevaluated = metrics, False
        better = progress.best is None or score(metrics) > progress.best
        progress.best = score(metrics) if better else progress.best
        return better

    def save(self, state: Any, seconds: float, *, evaluated: bool, replace: bool = False) -> None:
        """Starts a checkpoint, once all its metrics are on disk; Diverged if it would not be finite."""
        check_state(state, self.progress.step)
        progress = self.progress
        progress.seconds = seconds
        if not self.records.flush():
            return self.saver.fail(progress.step, OSError(f"{self.workdir / METRICS_FILE} cannot be written"))
        metadata = {
            "progress": dataclasses.asdict(progress),
            "meter": self.meter.pending(),
            "seed": self.config.seed,
            "versions": versions(),
        }
        value = score(progress.validation) if progress.validation and evaluated else None
        self.saver.save(state, metadata, score=value, replace=replace)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the result, once all else is on disk; RunStopped if it cannot be."""
        self.saver.wait()
        skipped = {"skipped": self.meter.skipped["all"]} if self.meter.skips else {}
        rollbacks = {"rollbacks": self.rollbacks} if self.rollbacks else {}
        result |= {**skipped, **rollbacks, "workdir": str(self.workdir)}
        try:
            if not self.records.flush():
                raise OSError(f"{self.workdir / METRICS_FILE} cannot be written")
            write_json(self.workdir / RESULT, result)
        except OSError as error:
            raise RunStopped(f"the result could not be written ({error}): {result}", exit_code=1) from None
        return result

    def plot(self) -> None:
        """Draws the curves of what was recorded."""
        try:
            if index_of_this() == 0:
                plot_curves(self.workdir)
                telemetry.plot(self.workdir)
        except OSError as error:
            logging.warning("%s: the curves could not be written (%s)", self.workdir, error)


def open_workdir(config: Config, workdir: Path, plan: Plan, command: str, seeds: Sequence[int]) -> None:
    """Writes what a run is before its first step; InputError where that cannot be.

    `seeds` are those of its program.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        save_config(config, workdir)
        save_task(plan.task, workdir)
        write_run_json(workdir, config, command, seeds)
        if plan.dataset.skipped:
            write_json(workdir / SKIPPED, {"n": len(plan.dataset.skipped), "images": plan.dataset.skipped})
    except OSError as error:
        raise InputError(f"cannot write to the workdir {str(workdir)!r}: {error.strerror}") from None
