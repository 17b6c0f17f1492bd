"""The way of some runs through their steps: dispatches, evaluation, checkpoints, results."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from resnet.data.batches import batch_indices
from resnet.data.datasets import Split
from resnet.runs.provenance import digest
from resnet.runtime.progress import ProgressBar
from resnet.runtime.signals import RunStopped, StopSignals
from resnet.training import telemetry
from resnet.training.divergence import Diverged
from resnet.training.evaluation import Halted, evaluate
from resnet.training.member import Member
from resnet.training.parallel import unstack
from resnet.training.plan import Plan
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


def run(session: Session, arrays: dict[str, jax.Array]) -> list[dict[str, Any]]:
    """All steps that are left, in stretches that end where something is due; the result of each member.

    `arrays` are the resident {"image", "label"}. Raises RunStopped after a signal, and where the last
    checkpoint or the result cannot be written; RollBack where a member has to begin again from its last.
    """
    plan = session.plan
    if any(member.progress.unevaluated for member in session.members):
        session.signals.nothing_to_lose = False
        _look_and_save(session, evaluate=True, replace=True)
    while session.step < plan.total_steps and session.active:
        before = session.step
        _run_stretch(session, arrays, _next_stop(plan, before))
        # A signal may have come before the first step of the stretch.
        _look_and_save(session, evaluate=before < session.step and session.step % plan.evaluate_every == 0)
    _save_at_last(session)
    try:
        return _finish(session)
    except Halted:
        raise _stopped(session) from None


def _look_and_save(session: Session, *, evaluate: bool, replace: bool = False) -> None:
    """The evaluation and the checkpoints due at this step, or asked for; RunStopped after a signal.

    With `replace`, in place of the checkpoint that was written when the evaluation was interrupted.
    """
    plan, signals, step = session.plan, session.signals, session.step
    better = []
    try:
        better = _validate(session) if evaluate else []
    except Halted:
        evaluate = False
        for member in session.active:
            member.progress.unevaluated = True
    due = _due(plan, step) or signals.take_save_request() or signals.received is not None
    _save(session, session.active if due else better, evaluated=evaluate, replace=replace)
    if signals.received and session.active:
        raise _stopped(session)
    for member in session.active:
        member.saver.poll()


def _stopped(session: Session) -> RunStopped:
    """What ends the runs on a signal, once their saves have."""
    for member in session.active:
        member.saver.wait()
    failures = [member.saver.failure for member in session.active if member.saver.failure]
    return session.signals.stopped(session.step, "; ".join(failures))


def _save_at_last(session: Session) -> None:
    """Once more for the last checkpoints that could not be written; RunStopped if they cannot be now."""
    for member in session.active:
        member.saver.wait()
    failed = [member for member in session.active if member.saver.failure]
    _save(session, failed, evaluated=False)
    for member in failed:
        member.saver.wait()
        if member.saver.failure:
            raise RunStopped(f"{member.workdir}: {member.saver.failure}", exit_code=1)
    _remove_old(session)


def _next_stop(plan: Plan, step: int) -> int:
    """The first step after `step` at which something is due."""
    intervals = (plan.evaluate_every, plan.checkpoint_every)
    return min(plan.total_steps, *((step // every + 1) * every for every in intervals))


def _run_stretch(session: Session, arrays: dict[str, jax.Array], stop: int) -> None:
    """Steps up to `stop`, or to a signal; the last ones that fill no call are taken one by one."""
    plan = session.plan
    config, timed_from, begun = plan.config, None, 0.0
    while session.step < stop and not session.signals.waiting:
        k = config.train.steps_per_call
        k = k if session.step + k <= stop else 1
        indices = _indices(session, range(session.step, session.step + k))
        session.state, metrics = plan.train_steps(session.state, arrays, indices)
        session.signals.nothing_to_lose = False
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
            try:
                member.add(first_step, {name: series[i] for name, series in metrics.items()})
            except Diverged as error:
                member.diverged(error, unstack(session.state.params)[i])


def _evaluate(session: Session, split: Split) -> Iterator[tuple[Member, dict[str, float]]]:
    """Each active member, and metrics of its weights that count: the moving average where there is one."""
    plan, variables = session.plan, session.state.variables
    metrics = evaluate(
        variables,
        split,
        eval_step=plan.eval_step,
        batch_size=plan.config.train.batch_size,
        halt=lambda: session.signals.received is not None,
    )
    pairs = zip(session.members, metrics, strict=True) if metrics else ()
    return ((member, each) for member, each in pairs if not member.failed)


def _validate(session: Session) -> list[Member]:
    """Evaluates on validation; the members that are better than ever."""
    pairs = _evaluate(session, session.plan.dataset.validation)
    return [member for member, metrics in pairs if member.validated(metrics)]


def _save(session: Session, members: list[Member], *, evaluated: bool, replace: bool = False) -> None:
    """Starts the checkpoints of some members, once those before them are whole."""
    if not members:
        return
    _remove_old(session)
    seconds = time.monotonic() - session.started
    for member, state in zip(session.members, unstack(session.state), strict=True):
        if member not in members:
            continue
        try:
            member.save(state, seconds, evaluated=evaluated, replace=replace)
        except Diverged as error:
            member.diverged(error, state.params)


def _remove_old(session: Session) -> None:
    """Waits for the saves in flight, and removes what no member needs any more.

    A kill may come at any moment, even between the saves of two members: those that went on from
    different steps would round differently. So a checkpoint goes once all have a later one in common.
    """
    plan, active = session.plan, session.active
    for member in active:
        member.saver.wait()
    in_common = set.intersection(*(member.saver.whole for member in active)) if active else set()
    # Those that were due outlive those that were asked for, or only the best for a while.
    order = sorted(in_common, key=lambda step: (_due(plan, step), step))
    for member in active if in_common else ():
        member.saver.remove_all_but({max(in_common), *order[-plan.config.checkpoint.keep :]})


def _due(plan: Plan, step: int) -> bool:
    """Whether a checkpoint is due at this step, whatever comes of its evaluation."""
    return step % plan.checkpoint_every == 0 or step == plan.total_steps


def _finish(session: Session) -> list[dict[str, Any]]:
    """The runs in one object each: test metrics of their last weights, never of a selected step."""
    plan, dataset = session.plan, session.plan.dataset
    name = "test" if len(dataset.test) else "validation"
    # What stands where no split has images to be judged by.
    unjudged = {"split": "none", "step": session.step, "validation": None}
    results = {member: dict(unjudged) for member in session.active}
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
    finished = [
        {"failed": member.failed, "step": member.progress.step}
        if member.failed
        else member.finish(results[member] | common)
        for member in session.members
    ]
    # Once all results are there: a kill would leave the others to a program of fewer seeds.
    for member in session.active:
        member.plot()
    return finished
