"""Runs that no study made, read as one: an arm for each config, whose seeds are the runs of that config."""

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet.config import CONFIG_FILE, Config, differences, load_saved_config, replaced
from resnet.errors import InputError
from resnet.runs.changes import what_decides
from resnet.runs.provenance import last_session
from resnet.runs.task import load_task
from resnet.studies.budget import count
from resnet.studies.folder import StudyFolder, StudyRun
from resnet.studies.study import ResolvedArm, value_at


@dataclasses.dataclass(frozen=True)
class Collected(StudyFolder):
    """A study whose runs lie in folders anywhere."""

    places: dict[tuple[str, int], Path] = dataclasses.field(default_factory=dict)
    """Each arm's seeds, and where they lie."""

    def place(self, name: str, seed: int, rate: float | None) -> Path:
        return self.places[name, seed]

    def runs(self, name: str) -> list[StudyRun]:
        return [self.run(name, seed, None) for arm, seed in self.places if arm == name]

    def expected(self, name: str) -> int:
        return len(self.runs(name))


def collect(workdirs: Iterable[Path], output: Path, title: str) -> Collected:
    """Groups runs by what decides their numbers, the seed aside; the first group is the reference.

    A folder of several seeds (seed0, seed1, …) stands for them. InputError for a folder that holds no
    run, or where two runs have one config and one seed.
    """
    groups: list[tuple[Config, dict[int, Path]]] = []
    for workdir in (run for folder in workdirs for run in _runs_in(folder)):
        config = load_saved_config(workdir)
        same = dataclasses.replace(what_decides(config), seed=0)
        seeds = next((seeds for other, seeds in groups if _alike(other, seeds, same, workdir)), None)
        if seeds is None:
            groups.append((same, seeds := {}))
        if config.seed in seeds:
            raise InputError(f"{workdir} repeats seed {config.seed} of {seeds[config.seed]}; name it once")
        seeds[config.seed] = workdir
    names = tell_apart([config for config, _ in groups])
    arms = {
        name: _arm(config, next(iter(seeds.values())), reference="" if name == names[0] else names[0])
        for name, (config, seeds) in zip(names, groups, strict=True)
    }
    places = {
        (name, seed): path
        for name, (_, seeds) in zip(names, groups, strict=True)
        for seed, path in seeds.items()
    }
    sessions = tuple(session for path in places.values() if (session := last_session(path)))
    seeds = tuple(dict.fromkeys(seed for _, seed in places))
    return Collected(output, title, "", "", "", seeds, 0, arms, origin=None, sessions=sessions, places=places)


def _alike(group: Config, seeds: dict[int, Path], config: Config, workdir: Path) -> bool:
    """Whether a run belongs to a group: its config is the same, or the same images lie elsewhere."""
    here = {"data.dir": config.data.dir}
    return group == config or (
        replaced(group, here) == config
        and bool(images := load_task(workdir).fingerprint)
        and images == load_task(next(iter(seeds.values()))).fingerprint
    )


def _runs_in(workdir: Path) -> list[Path]:
    """The folder itself, or its seeds in order."""
    if (workdir / CONFIG_FILE).exists():
        return [workdir]
    seeds = [path.parent for path in workdir.glob(f"seed*/{CONFIG_FILE}")]
    return sorted(seeds, key=lambda path: (len(path.name), path.name)) or [workdir]


def _arm(config: Config, workdir: Path, reference: str) -> ResolvedArm:
    task = load_task(workdir)
    height, width, channels = task.image_shape
    shapes = ((height, width, channels), task.num_outputs)
    counts = [count(config.model, shapes, budget) for budget in ("parameters", "macs")]
    return ResolvedArm(config, reference, (), "", *counts)


def tell_apart(configs: list[Config]) -> list[str]:
    """A name for each config from the fields in which they differ, as "depth 20, shortcut none"."""
    pairs = itertools.pairwise(configs)
    varying = list(dict.fromkeys(name for a, b in pairs for name, *_ in differences(a, b)))
    return [
        ", ".join(f"{name.removeprefix('model.')} {_shown(value_at(config, name))}" for name in varying)
        or "all"
        for config in configs
    ]


def _shown(value: Any) -> str:
    """A value as it is printed, or none for an empty text."""
    return "none" if value == "" else str(value)
