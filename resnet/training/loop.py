"""A run from beginning to end: new or restored state, steps, evaluation, checkpoints, result."""

import contextlib
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from resnet.config import FILE as CONFIG_FILE
from resnet.config import (
    Config,
    check_config,
    config_to_dict,
    differences,
    load_saved_config,
    save_config,
)
from resnet.data.batches import batch_indices
from resnet.data.datasets import Split, load_dataset
from resnet.errors import InputError
from resnet.training import checkpoint
from resnet.training.evaluation import evaluate, score
from resnet.training.meter import Meter
from resnet.training.parallel import check_batch, make_mesh, replicate, replicated
from resnet.training.plan import Plan, make_plan
from resnet.training.records import Records, plot_curves, versions, write_json, write_run_json
from resnet.training.signals import StopSignals
from resnet.training.steps import TrainState
from resnet.training.task import save_task

RESULT = "result.json"


@dataclasses.dataclass
class Progress:
    """What the loop knows beside the state; saved with it."""

    step: int = 0
    best: float | None = None
    """Best score on validation so far."""
    validation: dict[str, float] | None = None
    """Latest metrics on validation."""
    seconds: float = 0.0
    """Time in the loop over all sessions, compilation and evaluation included."""


@dataclasses.dataclass
class Session:
    """One uninterrupted piece of a run: what its functions share."""

    plan: Plan
    state: TrainState
    progress: Progress
    records: Records
    meter: Meter
    manager: Any
    signals: StopSignals
    started: float
    timed_steps: int = 0
    timed_seconds: float = 0.0


def train(config: Config, workdir: str | Path, command: str = "", mesh: Mesh | None = None) -> dict[str, Any]:
    """Trains until the end, from wherever the workdir stands, and returns the result.

    Uses all local devices unless a mesh is given. `command` is recorded.
    Raises InputError for a config, data set or workdir that cannot work, and RunStopped when a
    signal or a loss that is not finite ends the run early.
    """
    check_config(config)
    workdir = Path(workdir)
    result = _finished_result(workdir, config)
    if result is not None:
        return result
    mesh = mesh or make_mesh()
    check_batch(config.train.batch_size, config.model.ghost_batch, mesh.size)
    plan = make_plan(config, load_dataset(config.data), mesh)
    target = replicated(jax.eval_shape(plan.init, config.seed), mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    save_config(config, workdir)
    save_task(plan.task, workdir)
    write_run_json(workdir, config_to_dict(config), command)
    with StopSignals() as signals:
        result = _train(plan, target, workdir, signals) | {"workdir": str(workdir)}
    write_json(workdir / RESULT, result)
    plot_curves(workdir)
    return result


def _finished_result(workdir: Path, config: Config) -> dict[str, Any] | None:
    """The result of a run that is finished; InputError if the workdir is another run's."""
    if not (workdir / CONFIG_FILE).exists():
        if checkpoint.steps_on_disk(workdir):
            raise InputError(f"{workdir} has checkpoints but no {CONFIG_FILE}; choose another workdir")
        return None
    differing = differences(load_saved_config(workdir), config)
    if differing:
        fields = ", ".join(f"`{name}` ({old!r} there, {new!r} here)" for name, old, new in differing)
        raise InputError(f"{workdir} holds a run that differs in {fields}; choose another workdir")
    if not (workdir / RESULT).exists():
        return None
    result = json.loads((workdir / RESULT).read_text())
    logging.info("the run in %s is finished (step %d): nothing to do", workdir, result["step"])
    return result


def _train(plan: Plan, target: Any, workdir: Path, signals: StopSignals) -> dict[str, Any]:
    """Restores or starts, runs to the last step, and evaluates."""
    restored = checkpoint.restore_latest(workdir, target, set_aside=True)
    if restored:
        state, metadata = restored
        progress = Progress(**metadata["progress"])
        logging.info("resuming at step %d of %d", progress.step, plan.total_steps)
    else:
        state, metadata, progress = plan.start(plan.config.seed), {}, Progress()
    with contextlib.ExitStack() as stack:
        records = Records(workdir, plan.total_steps, plan.steps_per_epoch, progress.step)
        stack.enter_context(records)
        manager = checkpoint.make_manager(workdir, plan.config.checkpoint)
        # Waits for the save in flight, whatever ends the run.
        stack.callback(manager.close)
        write = functools.partial(records.write, split="train")
        meter = Meter(plan.log_every, plan.total_steps, write)
        meter.restore(metadata.get("meter", {}))
        started = time.monotonic() - progress.seconds
        session = Session(plan, state, progress, records, meter, manager, signals, started)
        train_split = plan.dataset.train
        arrays = {"image": train_split.images, "label": train_split.labels}
        _run(session, replicate(arrays, plan.mesh))
        return _finish(session)


def _run(session: Session, arrays: dict[str, jax.Array]) -> None:
    """All steps that are left, in stretches that end where something is due."""
    plan, progress = session.plan, session.progress
    while progress.step < plan.total_steps:
        _run_stretch(session, arrays, _next_stop(plan, progress.step))
        better = progress.step % plan.evaluate_every == 0 and _validate(session)
        due = progress.step % plan.checkpoint_every == 0 or progress.step == plan.total_steps
        if better or due or session.signals.received:
            _save(session)
        if session.signals.received:
            session.manager.wait_until_finished()
            raise session.signals.stopped(progress.step)


def _next_stop(plan: Plan, step: int) -> int:
    """The first step after `step` at which something is due."""
    intervals = (plan.evaluate_every, plan.checkpoint_every)
    return min(plan.total_steps, *((step // every + 1) * every for every in intervals))


def _run_stretch(session: Session, arrays: dict[str, jax.Array], stop: int) -> None:
    """Steps up to `stop`, or to a signal; the last ones that fill no call are taken one by one."""
    plan, progress = session.plan, session.progress
    config, n = plan.config, len(plan.dataset.train.labels)
    batch_size, timed_from, begun = config.train.batch_size, None, 0.0
    while progress.step < stop and not session.signals.received:
        k = config.train.steps_per_call
        k = k if progress.step + k <= stop else 1
        steps = range(progress.step, progress.step + k)
        indices = np.stack([batch_indices(config.seed, step, n, batch_size) for step in steps])
        session.state, metrics = plan.train_steps(session.state, arrays, indices)
        progress.step += k
        session.meter.add(progress.step - k + 1, metrics)
        if timed_from is None:  # The first call of a stretch may compile.
            timed_from, begun = progress.step, time.monotonic()
        elapsed = max(time.monotonic() - begun, 1e-9)
        rate = (progress.step - timed_from) * batch_size / elapsed
        session.records.progress(progress.step, rate)
    session.meter.flush()
    if timed_from is not None:
        session.timed_steps += progress.step - timed_from
        session.timed_seconds += time.monotonic() - begun


def _evaluate(session: Session, split: Split) -> dict[str, float] | None:
    """Metrics of the weights that count: the moving average where there is one."""
    plan, variables = session.plan, session.state.variables
    return evaluate(variables, split, eval_step=plan.eval_step, batch_size=plan.config.train.batch_size)


def _validate(session: Session) -> bool:
    """Evaluates on validation; whether that is the best so far."""
    progress = session.progress
    progress.validation = _evaluate(session, session.plan.dataset.validation)
    if progress.validation is None:
        return False
    session.records.write(progress.step, progress.validation, "validation")
    better = progress.best is None or score(progress.validation) > progress.best
    progress.best = score(progress.validation) if better else progress.best
    return better


def _save(session: Session) -> None:
    """Starts a checkpoint; all its metrics are on disk already."""
    plan, progress = session.plan, session.progress
    progress.seconds = time.monotonic() - session.started
    evaluated = progress.validation and progress.step % plan.evaluate_every == 0
    metadata = {
        "progress": dataclasses.asdict(progress),
        "meter": session.meter.pending(),
        "seed": plan.config.seed,
        "versions": versions(),
    }
    value = score(progress.validation) if progress.validation and evaluated else None
    checkpoint.save(session.manager, session.state, metadata, value)


def _finish(session: Session) -> dict[str, Any]:
    """The run in one object: test metrics of its last weights, never of a selected step."""
    plan, progress = session.plan, session.progress
    name = "test" if len(plan.dataset.test.labels) else "validation"
    split = getattr(plan.dataset, name)
    metrics = _evaluate(session, split) or {}
    if name == "test":
        session.records.write(progress.step, metrics, "test")
    result = {"split": name, **metrics, "step": progress.step, "validation": progress.validation}
    if session.state.ema:
        # What counts is the moving average; the weights themselves stand beside it.
        plain = dataclasses.replace(session.state, ema={})
        result["without_ema"] = _evaluate(dataclasses.replace(session, state=plain), split)
    rate = session.timed_steps * plan.config.train.batch_size / max(session.timed_seconds, 1e-9)
    seconds = time.monotonic() - session.started
    return result | {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(session.state.params)),
        "seconds": round(seconds, 2),
        "images_per_second": round(rate, 1),
    }
