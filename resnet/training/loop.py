"""Runs from beginning to end: new or restored states, steps, evaluation, checkpoints, results.

Seeds are trained together as one program. A run of one seed is a program of one.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from resnet.config import Config, check_config
from resnet.data.batches import batch_indices
from resnet.data.datasets import Dataset, Split, load_dataset
from resnet.training import checkpoint, telemetry
from resnet.training.evaluation import evaluate
from resnet.training.lock import holding
from resnet.training.member import FAILURE, Member, open_workdir, outcome
from resnet.training.parallel import DATA, check_batch, make_mesh, replicate, replicated, stack, unstack
from resnet.training.plan import Plan, make_plan
from resnet.training.processes import first_says, several
from resnet.training.progress import ProgressBar
from resnet.training.provenance import digest
from resnet.training.signals import RunStopped, StopSignals
from resnet.training.steps import TrainState


@dataclasses.dataclass
class Session:
    """One uninterrupted piece of the runs of some seeds: what its functions share."""

    plan: Plan
    members: list[Member]
    state: TrainState
    """Of all members, with a leading axis."""
    step: int
    bar: ProgressBar
    signals: StopSignals
    started: float
    waiting: tuple[int, dict[str, Any]] | None = None
    """First step and metrics of the last dispatch, on the device still."""
    timed_steps: int = 0
    timed_seconds: float = 0.0

    @property
    def active(self) -> list[Member]:
        """The members that have not failed."""
        return [member for member in self.members if not member.failed]


def train(config: Config, workdir: str | Path, command: str = "", mesh: Mesh | None = None) -> dict[str, Any]:
    """Trains until the end, from wherever the workdir stands, and returns the result.

    `train.seeds` runs lie in workdir/seed<n>, and their results are listed under "runs". Uses all
    local devices unless a mesh is given. `command` is recorded. Raises InputError for a config, data
    set or workdir that cannot work, and RunStopped when a signal or a loss that is not finite ends
    all runs early.
    """
    check_config(config)
    workdir, seeds = Path(workdir), range(config.seed, config.seed + config.train.seeds)
    if len(seeds) > 1:
        folders = {seed: workdir / f"seed{seed}" for seed in seeds}
        runs = list(train_seeds(config, folders, command, mesh).values())
        result = {"seeds": len(seeds), "runs": runs, "workdir": str(workdir)}
    else:
        # What failed may have failed for want of a fix made since.
        runs = [train_seeds(config, {config.seed: workdir}, command, mesh, retry=True)[config.seed]]
        result = runs[0]
    if all("failed" in run for run in runs):
        raise RunStopped(runs[0]["failed"], exit_code=1)
    return result


def train_seeds(
    config: Config,
    workdirs: dict[int, Path],
    command: str = "",
    mesh: Mesh | None = None,
    *,
    retry: bool = False,
) -> dict[int, dict[str, Any]]:
    """Trains `config` with each seed in its workdir, together where they can; the result of each.

    A seed whose loss is not finite has {"failed": reason, "step": …} for a result, and does not
    disturb the others; one that is finished, or has failed before, is not trained again, unless to
    `retry` the failed. The workdirs are locked meanwhile: WorkdirHeld, an InputError, if another
    process holds one of them.
    """
    configs = {seed: _alone(config, seed) for seed in workdirs}
    with contextlib.ExitStack() as locks:

        def claim() -> tuple[list, list]:
            results = {seed: outcome(workdirs[seed], configs[seed], retry) for seed in workdirs}
            for seed in [seed for seed in workdirs if results[seed] is None]:
                locks.enter_context(holding(workdirs[seed]))
                if retry:
                    (workdirs[seed] / FAILURE).unlink(missing_ok=True)
                # Another process may have finished it since.
                results[seed] = outcome(workdirs[seed], configs[seed])
            todo = {seed: workdirs[seed] for seed in workdirs if results[seed] is None}
            return list(results.values()), _groups(todo)

        found, groups = first_says(claim)
        results = dict(zip(workdirs, found, strict=True))
        dataset = load_dataset(config.data) if groups else None
        for group in groups:
            assert dataset is not None
            spread = mesh or make_mesh(seeds=len(group))
            members = {seed: (configs[seed], workdirs[seed]) for seed in group}
            with StopSignals() as signals:
                results |= _train_together(members, dataset, spread, signals, command)
    return {seed: result for seed, result in results.items() if result is not None}


def _alone(config: Config, seed: int) -> Config:
    """The config of one of the runs: that of an ordinary one."""
    return dataclasses.replace(config, seed=seed, train=dataclasses.replace(config.train, seeds=1))


def _groups(workdirs: dict[int, Path]) -> list[list[int]]:
    """Seeds that can go on from the same step: the fresh ones, and those with a checkpoint in common."""
    steps = {seed: set(checkpoint.steps_on_disk(workdir)) for seed, workdir in workdirs.items()}
    fresh = [seed for seed in steps if not steps[seed]]
    begun = [seed for seed in steps if steps[seed]]
    together = bool(begun and set.intersection(*(steps[seed] for seed in begun)))
    return [group for group in ([begun] if together else [[seed] for seed in begun]) + [fresh] if group]


def _train_together(
    runs: dict[int, tuple[Config, Path]], dataset: Dataset, mesh: Mesh, signals: StopSignals, command: str
) -> dict[int, dict[str, Any]]:
    """Restores or starts, runs to the last step, and evaluates."""
    config, workdirs = next(iter(runs.values()))[0], [workdir for _, workdir in runs.values()]
    check_batch(config.train.batch_size, config.model.ghost_batch, mesh.shape[DATA])
    plan = make_plan(config, dataset, mesh)
    target = replicated(jax.eval_shape(plan.init, config.seed), mesh)
    if not any(map(checkpoint.steps_on_disk, workdirs)):
        _ = plan.initial  # read first, so that a source that does not fit leaves no folder behind
    for own, workdir in runs.values():
        open_workdir(own, workdir, plan, command)
    if several():
        # Once, by the first, before any other process looks.
        first_says(lambda: [checkpoint.set_damaged_aside(workdir) for workdir in workdirs])
    restored = checkpoint.restore_together(workdirs, target, set_aside=not several())
    if restored:
        states, metadata = zip(*restored, strict=True)
        state = stack(states, mesh)
        logging.info("resuming at step %d of %d", metadata[0]["progress"]["step"], plan.total_steps)
    else:
        state, metadata = plan.start(*runs), [None] * len(runs)
    with contextlib.ExitStack() as closing:
        members = []
        for (own, workdir), known in zip(runs.values(), metadata, strict=True):
            members.append(Member(own, workdir, plan, known))
            closing.callback(members[-1].close)
        progress = members[0].progress
        bar = closing.enter_context(
            contextlib.closing(ProgressBar(plan.total_steps, plan.steps_per_epoch, progress.step))
        )
        started = time.monotonic() - progress.seconds
        session = Session(plan, members, state, progress.step, bar, signals, started)
        arrays = {"image": dataset.train.images, "label": dataset.train.labels}
        _run(session, replicate(arrays, mesh))
        results = _finish(session)
    return dict(zip(runs, results, strict=True))


def _run(session: Session, arrays: dict[str, jax.Array]) -> None:
    """All steps that are left, in stretches that end where something is due."""
    plan = session.plan
    while session.step < plan.total_steps and session.active:
        _run_stretch(session, arrays, _next_stop(plan, session.step))
        evaluated = session.step % plan.evaluate_every == 0
        better = _validate(session) if evaluated else []
        due = session.step % plan.checkpoint_every == 0 or session.step == plan.total_steps
        due = due or session.signals.received is not None
        _save(session, session.active if due else better, evaluated=evaluated, due=due)
        if session.signals.received and session.active:
            for member in session.active:
                member.manager.wait_until_finished()
            raise session.signals.stopped(session.step)


def _next_stop(plan: Plan, step: int) -> int:
    """The first step after `step` at which something is due."""
    intervals = (plan.evaluate_every, plan.checkpoint_every)
    return min(plan.total_steps, *((step // every + 1) * every for every in intervals))


def _run_stretch(session: Session, arrays: dict[str, jax.Array], stop: int) -> None:
    """Steps up to `stop`, or to a signal; the last ones that fill no call are taken one by one."""
    plan = session.plan
    config, timed_from, begun = plan.config, None, 0.0
    while session.step < stop and not session.signals.received:
        k = config.train.steps_per_call
        k = k if session.step + k <= stop else 1
        indices = _indices(session, range(session.step, session.step + k))
        session.state, metrics = plan.train_steps(session.state, arrays, indices)
        # Those of a dispatch are read when the next one is on its way: the device never waits.
        _read_metrics(session)
        session.waiting = session.step + 1, metrics
        session.step += k
        session.signals.poll()
        telemetry.record(plan, session.members, session.state, session.step, k)
        if timed_from is None:  # The first call of a stretch may compile.
            timed_from, begun = session.step, time.monotonic()
        elapsed = max(time.monotonic() - begun, 1e-9)
        images = config.train.batch_size * len(session.members)
        session.bar.show(session.step, (session.step - timed_from) * images / elapsed)
    _read_metrics(session)
    for member in session.active:
        member.progress.step = session.step
    if timed_from is not None:
        session.timed_steps += session.step - timed_from
        session.timed_seconds += time.monotonic() - begun


def _indices(session: Session, steps: range) -> np.ndarray:
    """The examples of each member's batches, [seeds, steps, batch]."""
    n, batch = len(session.plan.dataset.train), session.plan.config.train.batch_size
    seeds = [member.config.seed for member in session.members]
    return np.stack([[batch_indices(seed, step, n, batch) for step in steps] for seed in seeds])


def _read_metrics(session: Session) -> None:
    """Hands the metrics that wait to the members; waits for the device."""
    waiting, session.waiting = session.waiting, None
    if waiting is None:
        return
    first_step, metrics = waiting[0], jax.device_get(waiting[1])
    for i, member in enumerate(session.members):
        if not member.failed:
            member.add(first_step, {name: series[i] for name, series in metrics.items()})


def _evaluate(session: Session, split: Split) -> Iterator[tuple[Member, dict[str, float]]]:
    """Each active member, and metrics of its weights that count: the moving average where there is one."""
    plan, variables = session.plan, session.state.variables
    metrics = evaluate(variables, split, eval_step=plan.eval_step, batch_size=plan.config.train.batch_size)
    pairs = zip(session.members, metrics, strict=True) if metrics else ()
    return ((member, each) for member, each in pairs if not member.failed)


def _validate(session: Session) -> list[Member]:
    """Evaluates on validation; the members that are better than ever."""
    pairs = _evaluate(session, session.plan.dataset.validation)
    return [member for member, metrics in pairs if member.validated(metrics)]


def _save(session: Session, members: list[Member], *, evaluated: bool, due: bool) -> None:
    """Starts the checkpoints of some members."""
    if not members:
        return
    seconds = time.monotonic() - session.started
    for member, state in zip(session.members, unstack(session.state), strict=True):
        if member in members:
            member.save(state, seconds, evaluated=evaluated, due=due)


def _finish(session: Session) -> list[dict[str, Any]]:
    """The runs in one object each: test metrics of their last weights, never of a selected step."""
    plan, dataset = session.plan, session.plan.dataset
    name = "test" if len(dataset.test) else "validation"
    results = {}
    for member, metrics in _evaluate(session, getattr(dataset, name)):
        if name == "test":
            member.records.write(session.step, metrics, "test")
        validation = member.progress.validation
        results[member] = {"split": name, **metrics, "step": session.step, "validation": validation}
    if session.state.ema:
        # What counts is the moving average; the weights themselves stand beside it.
        plain = dataclasses.replace(session, state=dataclasses.replace(session.state, ema={}))
        for member, metrics in _evaluate(plain, getattr(dataset, name)):
            results[member]["without_ema"] = metrics
    for member, state in zip(session.members, unstack(session.state.variables), strict=True):
        if not member.failed:
            results[member]["sha256"] = digest(state)
    images = session.timed_steps * plan.config.train.batch_size * len(session.members)
    leaves = jax.tree.leaves(session.state.params)
    common = {
        "parameters": sum(leaf.size for leaf in leaves) // len(session.members),
        "seconds": round(time.monotonic() - session.started, 2),
        "images_per_second": round(images / max(session.timed_seconds, 1e-9), 1),
        "seeds_together": len(session.members),
    }
    common |= {"skipped_images": len(dataset.skipped)} if dataset.skipped else {}
    return [
        {"failed": member.failed, "step": member.progress.step}
        if member.failed
        else member.finish(results[member] | common)
        for member in session.members
    ]
