"""The seeds that are left to train, in groups, while their folders are locked against other processes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet.config import Config
from resnet.runs.checkpoints import checkpoint
from resnet.runs.lock import holding
from resnet.runs.open_run import outcome
from resnet.runs.provenance import last_session
from resnet.runs.task import check_apart_from_images
from resnet.runtime.processes import first_says


@contextlib.contextmanager
def claimed(
    config: Config, workdirs: Mapping[int, Path], retry: bool
) -> Iterator[tuple[dict[int, Any], list[list[int]]]]:
    """While entered, no other process writes to the workdirs: (results that are there, groups to train).

    The results are those of finished seeds and, unless `retry`, of failed ones; of seeds that are left to
    train they are None. Raises InputError for a folder of another run, and WorkdirHeld, an InputError, for
    one in use.
    """
    with contextlib.ExitStack() as held:

        def claim() -> tuple[list, list]:
            results = {seed: outcome(workdirs[seed], alone(config, seed), retry) for seed in workdirs}
            for seed in [seed for seed in workdirs if results[seed] is None]:
                check_apart_from_images(config.data, workdirs[seed])
                held.enter_context(holding(workdirs[seed]))
                # Another process may have finished it since.
                results[seed] = outcome(workdirs[seed], alone(config, seed), retry, held=True)
            left = {seed: workdirs[seed] for seed in workdirs if results[seed] is None}
            return list(results.values()), _groups(left)

        found, groups = first_says(claim)
        yield dict(zip(workdirs, found, strict=True)), groups


def alone(config: Config, seed: int) -> Config:
    """The config of the run of one seed, as if it were trained alone."""
    return dataclasses.replace(config, seed=seed, train=dataclasses.replace(config.train, seeds=1))


def _groups(workdirs: dict[int, Path]) -> list[list[int]]:
    """Groups of seeds that can start from the same step: new ones, and those with a checkpoint in common.

    Seeds of a program that was killed during its first save form one group, and begin again.
    """
    steps = {seed: set(checkpoint.steps_on_disk(workdir)) for seed, workdir in workdirs.items()}
    without = {seed for seed in steps if not steps[seed]}

    def program(seed: int) -> set[int]:
        return set((last_session(workdirs[seed]) or {}).get("seeds", ()))

    torn = {seed for seed in steps if len(steps[seed]) == 1 and without & program(seed)}
    fresh = [seed for seed in steps if seed in without | torn]
    begun = [seed for seed in steps if seed not in without | torn]
    together = bool(begun and set.intersection(*(steps[seed] for seed in begun)))
    return [group for group in ([begun] if together else [[seed] for seed in begun]) + [fresh] if group]
