"""A run while it is trained: its folder, its records, its checkpoints, and how it ends."""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from resnet.config import CONFIG_FILE, Config, load_saved_config, save_config
from resnet.errors import InputError
from resnet.models.chain import Flow
from resnet.runs.changes import keep_shorter_result, same_end
from resnet.runs.checkpoints import checkpoint
from resnet.runs.checkpoints.saver import Saver
from resnet.runs.metrics import telemetry
from resnet.runs.metrics.curves import plot_curves
from resnet.runs.metrics.meter import Meter
from resnet.runs.metrics.records import METRICS_FILE, RESULT, Records, is_result, read_json, write_json
from resnet.runs.provenance import versions, write_run_json
from resnet.runs.rollbacks import Diverged, RollBack, check_state, offending, read_rollbacks
from resnet.runs.task import Task, begin_task
from resnet.runtime.processes import first_says, index_of_this
from resnet.runtime.signals import RunStopped
from resnet.training.config import ROLLBACK, SKIP

FAILURE_FILE, SKIPPED = "failed.json", "skipped_images.json"


@dataclasses.dataclass
class Progress:
    """What a run remembers beside its state; saved with it."""

    step: int = 0
    best: float | None = None
    """Best score on validation so far."""
    best_step: int | None = None
    """The step of the best score; None before there is one, and in older checkpoints."""
    validation: dict[str, float] | None = None
    """Latest metrics on validation."""
    unevaluated: bool = False
    """Whether the validation that is due at this step was interrupted."""
    seconds: float = 0.0
    """Time in the loop over all sessions, compilation and evaluation included."""


def is_failure(value: Any) -> bool:
    """Whether JSON is what FAILURE_FILE holds."""
    return isinstance(value["failed"], str) and is_result(value)


def outcome(workdir: Path, config: Config, retry: bool = False, held: bool = False) -> dict[str, Any] | None:
    """The result of a run that is finished, or that failed and is not to `retry`; None for other runs.

    InputError if the workdir is another run's. Damaged files are set aside if the workdir is `held`.
    """
    if not (workdir / CONFIG_FILE).exists():
        if checkpoint.steps_on_disk(workdir):
            raise InputError(f"{workdir} has checkpoints but no {CONFIG_FILE}; choose another workdir")
        return None
    files = {RESULT: is_result} if same_end(workdir, config) else {}
    # With more rollbacks than it had, a run that gave up goes on.
    retry = retry or config.train.rollbacks > load_saved_config(workdir).train.rollbacks
    files |= {} if retry else {FAILURE_FILE: is_failure}
    for name, good in files.items():
        if result := read_json(workdir / name, good, aside=held):
            done = "is finished" if name == RESULT else f"failed: {result['failed']}"
            logging.info("the run in %s %s (step %d): nothing to do", workdir, done, result["step"])
            # It may have been moved.
            return result | {"workdir": str(workdir)} if name == RESULT else result
    return None


class OpenRun:
    """A run that is being trained; it writes all that its folder holds."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        restored: dict[str, Any] | None,
        *,
        total_steps: int,
        steps_per_epoch: int,
        log_every: int,
    ):
        """`restored` is the metadata of the checkpoint to go on from. InputError for a read-only folder."""
        self.config, self.workdir = config, workdir
        self.progress = Progress(**restored["progress"]) if restored else Progress()
        self._best_saved = self.progress.best_step
        self.failed = ""
        again = {"test"} | ({"validation"} if self.progress.unevaluated else set())
        try:
            self.records = Records(workdir, steps_per_epoch, self.progress.step, again, config.records.boards)
            telemetry.forget_rows_after(workdir, self.progress.step)
        except OSError as error:
            raise InputError(f"cannot write to the workdir {str(workdir)!r}: {error}") from None
        self.saver = Saver(workdir)
        write = functools.partial(self.records.write, split="train")
        self.rollbacks = read_rollbacks(workdir)
        policy = {"skips": config.train.on_divergence == SKIP, "spike_factor": config.train.spike_factor}
        self.meter = Meter(log_every, total_steps, write, **policy)
        self.meter.restore(restored["meter"] if restored else {})

    def close(self) -> None:
        """Waits for the save in flight, whatever ends the run."""
        self.saver.close()
        self.records.close()

    def log(self, first_step: int, metrics: dict[str, Any]) -> None:
        """Takes the metrics of steps first_step, first_step + 1, …; Diverged if one of them did."""
        self.meter.add(first_step, metrics)

    def log_flow(self, step: int, found: Flow) -> None:
        """Adds the telemetry of a step."""
        try:
            telemetry.append(self.workdir, step, found)
        except OSError as error:
            logging.warning("%s: telemetry of step %d is left out (%s)", self.workdir, step, error)

    def diverged(self, error: Diverged, params: Any) -> None:
        """Raises RollBack if the policy is to go back and try again; else marks the run as failed."""
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
        logging.error("%s: %s", self.workdir, self.failed)
        try:
            write_json(self.workdir / FAILURE_FILE, self._failure)
        except OSError as refusal:
            logging.warning(
                "%s cannot be written (%s); tried again at the end", self.workdir / FAILURE_FILE, refusal
            )

    @property
    def _failure(self) -> dict[str, Any]:
        return {"failed": self.failed, "step": self.progress.step}

    def validated(self, metrics: dict[str, float]) -> bool:
        """Records metrics on validation; returns whether they are the best so far."""
        progress = self.progress
        self.records.write(progress.step, metrics, "validation")
        progress.validation, progress.unevaluated = metrics, False
        better = progress.best is None or checkpoint.score(metrics) > progress.best
        if better:
            progress.best, progress.best_step = checkpoint.score(metrics), progress.step
        return better

    def save(self, state: Any, seconds: float) -> None:
        """Starts a checkpoint, once all its metrics are on disk; Diverged if it would not be finite."""
        check_state(state, self.progress.step)
        progress = self.progress
        progress.seconds = seconds
        if not first_says(self.records.flush):  # the one that writes them; all go on in the same way
            return self.saver.fail(progress.step, OSError(f"{self.workdir / METRICS_FILE} cannot be written"))
        metadata = {
            "progress": dataclasses.asdict(progress),
            "meter": self.meter.pending(),
            "seed": self.config.seed,
            "versions": versions(),
        }
        self.saver.save(state, metadata)

    def remove_all_but(self, steps: Collection[int]) -> None:
        """Removes all checkpoints except those of `steps`, the latest and the best on validation.

        The best so far stays until a better one is whole on disk.
        """
        best = self.progress.best_step
        if best is not None:
            if self._best_saved is None or best in self.saver.whole:
                self._best_saved = best
            self.saver.remove_all_but({*steps, best, self._best_saved})
        elif self.progress.best is None:  # else any of them may be the best one
            self.saver.remove_all_but(steps)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the result, or why the run failed, once everything else is on disk, and returns it.

        RunStopped if it cannot be written.
        """
        self.saver.wait()
        name = FAILURE_FILE if self.failed else RESULT
        if self.failed:
            result = self._failure
        else:
            skipped = {"skipped": self.meter.skipped["all"]} if self.meter.skips else {}
            rollbacks = {"rollbacks": self.rollbacks} if self.rollbacks else {}
            result |= {**skipped, **rollbacks, "workdir": str(self.workdir)}
        try:
            if not self.records.flush():
                raise OSError(f"{self.workdir / METRICS_FILE} cannot be written")
            write_json(self.workdir / name, result)
        except OSError as error:
            raise RunStopped(f"{name} could not be written ({error}): {result}", exit_code=1) from None
        return result

    def plot(self) -> None:
        """Draws the curves of what was recorded."""
        try:
            if index_of_this() == 0:
                plot_curves(self.workdir)
                telemetry.plot(self.workdir)
        except OSError as error:
            logging.warning("%s: the curves could not be written (%s)", self.workdir, error)


def note_skipped(workdir: Path, skipped: Collection[str]) -> int:
    """Adds images that could not be read to those listed in the folder; returns how many there are."""
    known = read_json(workdir / SKIPPED, lambda value: isinstance(value["images"], list)) or {"images": []}
    images = sorted({*known["images"], *skipped})
    try:
        if images != known["images"]:
            write_json(workdir / SKIPPED, {"n": len(images), "images": images})
    except OSError as error:
        logging.warning("%s cannot be written (%s)", workdir / SKIPPED, error)
    return len(images)


def open_workdir(config: Config, workdir: Path, task: Task, command: str, seeds: Sequence[int]) -> None:
    """Writes config, task and provenance before the first step; InputError if they cannot be written.

    `seeds` are those trained as one program.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        keep_shorter_result(workdir, config)
        (workdir / FAILURE_FILE).unlink(missing_ok=True)  # of an earlier try
        save_config(config, workdir)
        begin_task(task, workdir)
        write_run_json(workdir, config, command, seeds)
    except OSError as error:
        raise InputError(f"cannot write to the workdir {str(workdir)!r}: {error.strerror}") from None
