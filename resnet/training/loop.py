"""Training from beginning to end: restore or begin, then batch, step, log, evaluate and save; finish."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from resnet.config import CONFIG_FILE, Config, check_config
from resnet.data.files.decoders import check_decoder_installed
from resnet.errors import InputError
from resnet.files import local_path
from resnet.runs.agreement import agree_on_config
from resnet.runs.changes import start_elsewhere
from resnet.runs.claims import claimed
from resnet.runs.metrics.boards import check_boards_installed
from resnet.runs.rollbacks import RollBack
from resnet.runs.task import load_run_data
from resnet.runtime.devices import devices_for, make_mesh
from resnet.runtime.processes import in_all, several
from resnet.runtime.signals import RunStopped, StopSignals
from resnet.training.seeds import Runs
from resnet.training.step import TrainState
from resnet.training.trainer import make_trainer

Workdir = str | Path | Mapping[int, Path]


def train(
    config: Config,
    workdir: Workdir,
    command: str = "",
    mesh: Mesh | None = None,
    began: int = 0,
    test_images: Collection[str] = (),
) -> dict[Any, Any]:
    """Trains until the end, from wherever the workdir stands, and returns the result.

    `train.seeds` runs lie in workdir/seed<n>, and their results are listed under "runs". A mapping names
    the workdir of each seed instead, and gives the result of each; they are what is left of a program that
    `began` with so many seeds. If `test_images` are given, the fingerprint of the test split must be one of
    them. Uses all local devices unless a mesh is given, and records `command`. InputError for a config, data
    set or workdir that cannot work; RunStopped when a signal or a loss that is not finite ends all runs.
    """
    check_config(config)
    check_packages(config)
    workdirs, retry = _workdirs(config, workdir)
    agree_on_config(config, workdirs)
    with StopSignals() as stop, claimed(config, workdirs, retry) as (results, groups):
        left = [workdirs[seed] for seeds in groups for seed in seeds]
        dataset = in_all(lambda: load_run_data(config.data, left, test_images)) if left else None
        for seeds in groups:
            assert dataset is not None
            trainer = make_trainer(config, dataset, mesh or _mesh(len(seeds), began or len(workdirs)), seeds)
            run = Runs(trainer, workdirs, command, stop)
            while run.results is None:
                try:
                    state = run.restore()
                    if run.unevaluated or not trainer.intervals.total:
                        look(run, state, stop, evaluate=True)
                    while run.step < trainer.intervals.total and run.active:
                        for steps, batch in trainer.batches(run.step):
                            program = trainer.train(len(steps), trainer.intervals.side(steps.start))
                            state, metrics = program(state, batch)
                            run.log(steps, state, metrics)
                            if stop.waiting:
                                break
                        run.pause(state)
                        look(run, state, stop, evaluate=trainer.intervals.evaluates(run.step))
                    run.finish(state)
                except RollBack as back:
                    run.go_back(back)
                finally:
                    run.close()
            results |= run.results
            if stop.received:
                raise stop.stopped(run.step)
    return _result(results, config, workdir)


def _mesh(seeds: int, began: int) -> Mesh:
    """The devices that train so many seeds, which are left of those that began."""
    alone = not several()  # devices of several processes share each batch, whatever the seeds
    return make_mesh(devices_for(seeds, began, jax.device_count()) if alone else None, seeds)


def check_packages(config: Config) -> None:
    """Raises InputError if a package is not installed that only training by this config needs."""
    check_decoder_installed(config.data.decoder)
    check_boards_installed(config.records.boards)


def look(run: Runs, state: TrainState, stop: StopSignals, *, evaluate: bool) -> None:
    """The evaluation and the checkpoints due at this step, or asked for; RunStopped after a signal."""
    if evaluate:
        run.validate(state)
    asked = stop.take_save_request()  # Taken where a checkpoint is due anyway, too.
    due = asked or run.trainer.intervals.saves(run.step) or stop.received is not None
    run.save(state, everyone=due)
    if stop.received and run.active:
        raise run.stopped()


def _workdirs(config: Config, workdir: Workdir) -> tuple[Mapping[int, Path], bool]:
    """The workdir of each seed, and whether to try again what failed, as a fix may have been made since."""
    if isinstance(workdir, Mapping):
        return workdir, False
    if config.train.seeds == 1:
        return {config.seed: local_path(workdir)}, True
    if (local_path(workdir) / CONFIG_FILE).exists():
        raise InputError(
            f"{local_path(workdir)} holds one run, and `train.seeds` is {config.train.seeds}; "
            f"{start_elsewhere(local_path(workdir))}"
        )
    seeds = range(config.seed, config.seed + config.train.seeds)
    return {seed: local_path(workdir) / f"seed{seed}" for seed in seeds}, False


def _result(results: dict[int, Any], config: Config, workdir: Workdir) -> dict[Any, Any]:
    """What `train` returns; RunStopped if all seeds of a workdir failed."""
    if isinstance(workdir, Mapping):
        return results
    runs = list(results.values())
    if all("failed" in run for run in runs):
        raise RunStopped(runs[0]["failed"], exit_code=1)
    if config.train.seeds == 1:
        return runs[0]
    return {"seeds": len(runs), "runs": runs, "workdir": str(local_path(workdir))}
