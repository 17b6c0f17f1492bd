"""Runs that one program trains, each with a seed and a folder of its own; a run alone is a group of one."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.paths import count_elements
from resnet.runs.agreement import agree_on_data
from resnet.runs.changes import check_longer
from resnet.runs.checkpoints import checkpoint
from resnet.runs.claims import alone
from resnet.runs.open_run import OpenRun, open_workdir
from resnet.runs.provenance import digest
from resnet.runs.rollbacks import Diverged, RollBack, write_rollback
from resnet.runs.stream_report import StreamReport
from resnet.runtime.processes import first_says, index_of_this, several
from resnet.runtime.progress import Clock, ProgressBar
from resnet.runtime.signals import RunStopped, StopSignals
from resnet.training.divergence import at_rate
from resnet.training.evaluation import Halted, as_numbers, images_seen, observe
from resnet.training.step import TrainState
from resnet.training.trainer import Trainer


class Runs:
    """The runs of a trainer's seeds, with the interface of one run."""

    def __init__(
        self, trainer: Trainer, workdirs: Mapping[int, Path], command: str, stop: StopSignals
    ) -> None:
        """Writes what each run is; InputError if it cannot, or if `init_from` does not fit."""
        self.trainer, self.workdirs, self.stop = trainer, [workdirs[seed] for seed in trainer.seeds], stop
        self.configs = [alone(trainer.config, seed) for seed in trainer.seeds]
        agree_on_data(trainer.dataset)
        if not any(map(checkpoint.steps_on_disk, self.workdirs)):
            _ = trainer.initial  # read first, so that a source that does not fit leaves no folder behind
        for config, workdir in zip(self.configs, self.workdirs, strict=True):
            check_longer(workdir, config, trainer.intervals.epoch)
        for config, workdir in zip(self.configs, self.workdirs, strict=True):
            open_workdir(config, workdir, trainer.task, command, trainer.seeds)
        self.runs: list[OpenRun] = []
        self.step = 0
        self.started = 0.0
        """Time of the first step by time.monotonic, plus the length of all interruptions since."""
        self.results: dict[int, dict[str, Any]] | None = None
        """Each seed's result, once they are finished."""
        self.report = StreamReport(trainer.stream, trainer.dataset.skipped, self.workdirs)
        self._better: list[OpenRun] = []
        self._waiting: tuple[range, Any] | None = None
        self._closing = contextlib.ExitStack()
        stop.nothing_to_lose = True

    @property
    def active(self) -> list[OpenRun]:
        """Those that have not failed."""
        return [run for run in self.runs if not run.failed]

    @property
    def unevaluated(self) -> bool:
        """Whether the evaluation that is due at this step was interrupted."""
        return any(run.progress.unevaluated for run in self.active)

    def restore(self) -> TrainState:
        """The state of the last checkpoint in common, or the first state; opens the records behind it."""
        begins, trainer, failed = not self.runs, self.trainer, {r.workdir: r for r in self.runs if r.failed}
        living = [workdir for workdir in self.workdirs if workdir not in failed]
        if several():
            # Once, by the first, before any other process looks.
            first_says(lambda: [checkpoint.set_damaged_aside(workdir) for workdir in living])
        restored = checkpoint.restore_together(living, trainer.shapes, set_aside=not several())
        if begun := [] if restored else [w for w in living if checkpoint.steps_on_disk(w)]:
            logging.warning("%s: seeds of one program without a checkpoint in common begin again",
                            ", ".join(map(str, begun)))  # fmt: skip
        if restored:
            found = dict(zip(living, restored, strict=True))
        else:
            found = {w: (own, None) for w, own in zip(self.workdirs, trainer.first_states(), strict=True)}
        # A seed that failed for good stays so: nobody reads what is computed in its place.
        states = [found[living[0] if workdir in failed else workdir][0] for workdir in self.workdirs]
        intervals = trainer.intervals
        lengths = {
            "total_steps": intervals.total,
            "steps_per_epoch": intervals.epoch,
            "log_every": intervals.log,
        }
        self.runs = []
        for config, workdir in zip(self.configs, self.workdirs, strict=True):
            if workdir in failed:
                self.runs.append(failed[workdir])
                continue
            self.runs.append(OpenRun(config, workdir, found[workdir][1], **lengths))
            self._closing.callback(self.runs[-1].close)
        self.step = self.active[0].progress.step
        self.stop.nothing_to_lose = not self.unevaluated
        bar = ProgressBar(intervals.total, intervals.epoch, self.step)
        self.bar = self._closing.enter_context(contextlib.closing(bar))
        if begins:  # after a rollback, the steps that were discarded still count
            self.started = time.monotonic() - self.active[0].progress.seconds
        self.clock = Clock(trainer.config.train.batch_size * len(self.runs))
        if restored:
            logging.info("resuming at step %d of %d", self.step, intervals.total)
        pairs = zip(states, self.runs, strict=True)
        return trainer.to_devices([at_rate(own, len(r.rollbacks), trainer.config.train) for own, r in pairs])

    def log(self, steps: range, state: TrainState, metrics: dict[str, Any]) -> None:
        """Keeps the metrics of steps just begun, and records those of the call before: no device waits."""
        self._read(state)
        self.step = steps.stop
        self._waiting = steps, metrics
        self.stop.nothing_to_lose = False
        self.stop.poll()
        self._observe(steps, state)
        self.bar.show(steps.stop, *self.report.tick(self.clock, steps, metrics))

    def pause(self, state: TrainState) -> None:
        """Waits for the steps under way, and takes their metrics; RollBack where one diverged."""
        self._read(state)
        for run in self.active:
            run.progress.step = self.step
        self.clock.pause()
        self.report.pause(self.clock)

    def _read(self, state: TrainState) -> None:
        """Hands the metrics that wait to the runs, once the device has them."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        steps, metrics = waiting
        for i, (run, own) in enumerate(zip(self.runs, self.trainer.to_host(metrics), strict=True)):
            series = own if len(steps) > 1 else {name: np.asarray(value)[None] for name, value in own.items()}
            try:
                if not run.failed:
                    run.log(steps.start + 1, series)
            except Diverged as error:
                run.diverged(error, self.trainer.to_host(state.params)[i])

    def _observe(self, steps: range, state: TrainState) -> None:
        """Writes the telemetry that fell due in these steps, of the batch that comes next."""
        every, trainer = self.trainer.intervals.telemetry, self.trainer
        if not every or steps.stop // every == steps.start // every:
            return
        seen = trainer.to_host(dataclasses.replace(state, opt_state=(), ema=()))  # by all, who may share it
        for run, own in zip(self.runs, seen, strict=True):
            if not run.failed and index_of_this() == 0:
                batch = trainer.first_images(run.config.seed, steps.stop, images_seen(trainer.config.model))
                step = dataclasses.replace(trainer.step, side=trainer.intervals.side(steps.stop))
                run.log_flow(steps.stop, observe(step, own, batch))

    def validate(self, state: TrainState) -> None:
        """Evaluates on validation and records the metrics; after a signal, the resumed run does it."""
        try:
            found = self._evaluate(state.variables, "validation")
        except Halted:
            for run in self.active:
                run.progress.unevaluated = True
            return
        self._better = [run for run, metrics in found.items() if run.validated(metrics)]

    def _evaluate(self, variables: Any, split: str) -> dict[OpenRun, dict[str, float]]:
        """Metrics of each active run on a split; Halted after a signal."""
        found = self.trainer.evaluate(
            variables, getattr(self.trainer.dataset, split), halt=lambda: self.stop.received is not None
        )
        pairs = zip(self.runs, map(as_numbers, found), strict=True) if found else ()
        return {run: metrics for run, metrics in pairs if not run.failed}

    def save(self, state: TrainState, *, everyone: bool) -> None:
        """Starts the checkpoints of all runs, or of those that are better on validation than ever before."""
        runs, self._better = self.active if everyone else self._better, []
        self._save(state, runs)
        for run in self.active:
            run.saver.poll()

    def _save(self, state: TrainState, runs: list[OpenRun]) -> None:
        if not runs:
            return
        self._remove_old()
        seconds = time.monotonic() - self.started
        for run, own in zip(self.runs, self.trainer.layout.to_save(state), strict=True):
            try:
                if run in runs:
                    run.save(own, seconds)
            except Diverged as error:
                run.diverged(error, own.params)

    def _remove_old(self) -> None:
        """Waits for the saves in flight, and removes what no run needs any more.

        A kill may come at any moment, even between the saves of two runs: those that went on from
        different steps would round differently. So a checkpoint goes once all have a later one in common.
        """
        active = self.active
        for run in active:
            run.saver.wait()
        in_common = set.intersection(*(run.saver.whole for run in active)) if active else set()
        # Those that were due outlive those that were asked for, or only the best for a while.
        order = sorted(in_common, key=lambda step: (self.trainer.intervals.saves(step), step))
        for run in active if in_common else ():
            run.remove_all_but({max(in_common), *order[-self.trainer.config.checkpoint.keep :]})

    def _save_at_last(self, state: TrainState) -> None:
        """Once more for the last checkpoints that could not be written; RunStopped if they cannot be now."""
        for run in self.active:
            run.saver.wait()
        failed = [run for run in self.active if run.saver.failure]
        self._save(state, failed)
        for run in failed:
            run.saver.wait()
            if run.saver.failure:
                raise RunStopped(f"{run.workdir}: {run.saver.failure}", exit_code=1)
        self._remove_old()

    def finish(self, state: TrainState) -> None:
        """Writes the results, once all else is on disk; RunStopped after a signal or a full disk."""
        self._save_at_last(state)
        try:
            tested = self._test(state)
        except Halted:
            raise self.stopped() from None
        for run, own in zip(self.runs, self.trainer.layout.to_save(state), strict=True):
            if not run.failed:
                tested[run]["sha256"] = digest(own.variables)
        parameters, speed = count_elements(state.params) // len(self.runs), self.clock.mean
        common = {
            "parameters": parameters,
            "seconds": round(time.monotonic() - self.started, 2),
            "images_per_second": None if speed is None else round(speed, 1),
            "seeds_together": len(self.runs),
        }
        common |= self.report.result(self.clock)
        finished = [run.finish(tested.get(run, {}) | common) for run in self.runs]
        # Once all results are there: a kill would leave the others to a program of fewer seeds.
        for run in self.active:
            run.plot()
        self.results = dict(zip(self.trainer.seeds, finished, strict=True))

    def _test(self, state: TrainState) -> dict[OpenRun, dict[str, Any]]:
        """Test metrics of each active run's last weights, never of a selected step; Halted after a signal."""
        dataset = self.trainer.dataset
        split = "test" if len(dataset.test) else "validation"
        # What stands where no split has images to be judged by.
        unjudged = {"split": "none", "step": self.step, "validation": None}
        results: dict[OpenRun, dict[str, Any]] = {run: dict(unjudged) for run in self.active}
        for run, metrics in self._evaluate(state.variables, split).items():
            if split == "test":
                run.records.write(self.step, metrics, "test")
            validation = run.progress.validation
            results[run] = {"split": split, **metrics, "step": self.step, "validation": validation}
        if state.ema:
            # What counts is the moving average; the weights themselves stand beside it.
            for run, metrics in self._evaluate(state.current, split).items():
                results[run]["without_ema"] = metrics
        return results

    def stopped(self) -> RunStopped:
        """What ends the runs on a signal, once their saves have ended."""
        for run in self.active:
            run.saver.wait()
        failures = [run.saver.failure for run in self.active if run.saver.failure]
        return self.stop.stopped(self.step, "; ".join(failures))

    def go_back(self, back: RollBack) -> None:
        """Makes the folder of a run that diverged ready to go on from the last due checkpoint in common.

        One that was saved for a signal or the best score does not count: an undisturbed run may not have it.
        """
        self.close()  # first, as a save may be in flight
        factor, due = self.trainer.config.train.rollback_factor, self.trainer.intervals.saves

        def prepare() -> None:
            steps = checkpoint.steps_in_common([run.workdir for run in self.active])
            step = max(filter(due, steps), default=0)
            # In this order: a kill in between, and the run diverges at the same step once more.
            checkpoint.forget_checkpoints_after(back.workdir, step)
            write_rollback(back.workdir, back.error, step, factor)
            logging.warning("%s: back to step %d, at a lower learning rate", back.workdir, step)

        first_says(prepare)

    def close(self) -> None:
        """Waits for the saves in flight and writes what waits, whatever ends the runs."""
        self._closing.close()
        self.trainer.close()
