"""Runs from beginning to end: their folders, and new or restored states to go on from.

Seeds are trained together as one program. A run of one seed is a program of one.
"""

import contextlib
import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from resnet.config import Config, check_config
from resnet.data.datasets import Dataset, load_dataset
from resnet.errors import InputError
from resnet.files import local_path
from resnet.runs import checkpoint
from resnet.runs.lock import holding
from resnet.runs.provenance import last_session
from resnet.runtime.processes import first_says, several
from resnet.runtime.progress import ProgressBar
from resnet.runtime.signals import RunStopped, StopSignals
from resnet.training.divergence import with_rates, write_rollback
from resnet.training.member import FAILURE, Member, RollBack, open_workdir, outcome
from resnet.training.parallel import DATA, check_batch, make_mesh, replicate, replicated, stack
from resnet.training.plan import Plan, make_plan
from resnet.training.session import Session, run
from resnet.training.steps import TrainState


def train(config: Config, workdir: str | Path, command: str = "", mesh: Mesh | None = None) -> dict[str, Any]:
    """Trains until the end, from wherever the workdir stands, and returns the result.

    `train.seeds` runs lie in workdir/seed<n>, and their results are listed under "runs". Uses all
    local devices unless a mesh is given. `command` is recorded. Raises InputError for a config, data
    set or workdir that cannot work, and RunStopped when a signal or a loss that is not finite ends
    all runs early.
    """
    check_config(config)
    workdir, seeds = local_path(workdir), range(config.seed, config.seed + config.train.seeds)
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
    with contextlib.ExitStack() as held:
        signals = held.enter_context(StopSignals())

        def claim() -> tuple[list, list]:
            results = {seed: outcome(workdirs[seed], configs[seed], retry) for seed in workdirs}
            for seed in [seed for seed in workdirs if results[seed] is None]:
                held.enter_context(holding(workdirs[seed]))
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
            signals.nothing_to_lose = True
            results |= _train_together(members, dataset, spread, signals, command)
            if signals.received:
                raise signals.stopped(results[group[-1]]["step"])
    return {seed: result for seed, result in results.items() if result is not None}


def _alone(config: Config, seed: int) -> Config:
    """The config of one of the runs: that of an ordinary one."""
    return dataclasses.replace(config, seed=seed, train=dataclasses.replace(config.train, seeds=1))


def _groups(workdirs: dict[int, Path]) -> list[list[int]]:
    """Seeds that can go on from the same step: the fresh ones, and those with a checkpoint in common.

    Those of a program that was killed within its very first save begin again as one.
    """
    steps = {seed: set(checkpoint.steps_on_disk(workdir)) for seed, workdir in workdirs.items()}
    without = {seed for seed in steps if not steps[seed]}
    torn = {seed for seed in steps if len(steps[seed]) == 1 and without & _program(workdirs[seed])}
    fresh = [seed for seed in steps if seed in without | torn]
    begun = [seed for seed in steps if seed not in without | torn]
    together = bool(begun and set.intersection(*(steps[seed] for seed in begun)))
    return [group for group in ([begun] if together else [[seed] for seed in begun]) + [fresh] if group]


def _program(workdir: Path) -> set[int]:
    """The seeds that a run was last trained together with."""
    return set((last_session(workdir) or {}).get("seeds", ()))


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
        open_workdir(own, workdir, plan, command, list(runs))
    while True:
        try:
            results = _go_on(plan, runs, target, signals)
            return dict(zip(runs, results, strict=True))
        except RollBack as back:
            first_says(functools.partial(_go_back, back, workdirs, config.train.rollback_factor))


def _go_back(back: RollBack, workdirs: list[Path], factor: float) -> None:
    """Makes the folder of a run that diverged ready to go on from the last checkpoint in common."""
    step = checkpoint.latest_in_common(workdirs)
    # In this order: a kill in between, and the run diverges at the same step once more.
    checkpoint.forget_after(back.workdir, step)
    write_rollback(back.workdir, back.error, step, factor)
    logging.warning("%s: back to step %d, at a lower learning rate", back.workdir, step)


def _go_on(
    plan: Plan, runs: dict[int, tuple[Config, Path]], target: TrainState, signals: StopSignals
) -> list[dict[str, Any]]:
    """From the last checkpoint in common, or the beginning, to the results."""
    workdirs = [workdir for _, workdir in runs.values()]
    if several():
        # Once, by the first, before any other process looks.
        first_says(lambda: [checkpoint.set_damaged_aside(workdir) for workdir in workdirs])
    restored = checkpoint.restore_together(workdirs, target, set_aside=not several())
    if restored:
        states, metadata = zip(*restored, strict=True)
        state = stack(states, plan.mesh, plan.config.model)
        logging.info("resuming at step %d of %d", metadata[0]["progress"]["step"], plan.total_steps)
    else:
        if begun := [str(workdir) for workdir in workdirs if checkpoint.steps_on_disk(workdir)]:
            logging.warning("%s: seeds of one program without a checkpoint in common begin again", begun)
        state, metadata = plan.start(*runs), [None] * len(runs)
    with contextlib.ExitStack() as closing:
        members = []
        for (own, workdir), known in zip(runs.values(), metadata, strict=True):
            try:
                members.append(Member(own, workdir, plan, known))
            except OSError as error:
                raise InputError(f"cannot write to the workdir {str(workdir)!r}: {error}") from None
            closing.callback(members[-1].close)
        progress = members[0].progress
        bar = closing.enter_context(
            contextlib.closing(ProgressBar(plan.total_steps, plan.steps_per_epoch, progress.step))
        )
        started = time.monotonic() - progress.seconds
        state = with_rates(state, [len(member.rollbacks) for member in members], plan.config.train)
        session = Session(plan, members, state, progress.step, bar, signals, started)
        train = plan.dataset.train
        return run(session, replicate({"image": train.images, "label": train.labels}, plan.mesh))
