"""Does an interrupted study end as an undisturbed one? Kills one at random times, and compares."""

import dataclasses
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.errors import InputError
from resnet.files import make_folder, write_text
from resnet.runs.metrics.records import read_metrics
from resnet.runs.provenance import origin_lines, this_session
from resnet.runs.tables import markdown_table
from resnet.studies.folder import states
from resnet.studies.stored import FILE, load_folder

# What differs between two runs of one config: times, those of a stream's input among them, and the place.
_TIMES = ("seconds", "images_per_second", "input", "workdir")


@dataclasses.dataclass(frozen=True)
class Kill:
    """One SIGKILL."""

    seconds: float
    """After the start of the process."""
    states: dict[str, int]
    """How many runs were in which state then."""


@dataclasses.dataclass(frozen=True)
class Interruption:
    """The kills, and what the killed study and the undisturbed one ended with."""

    kills: list[Kill]
    seconds: float
    """Of the undisturbed study."""
    runs: dict[str, tuple[Any, Any]]
    """By folder: what the undisturbed and the killed study's run came to, result and records."""

    @property
    def different(self) -> list[str]:
        """Runs whose outcomes differ."""
        return [name for name, (undisturbed, killed) in self.runs.items() if undisturbed != killed]


def interrupt(command: list[str], workdir: Path, kills: int, *, latest: float, seed: int) -> Interruption:
    """Runs the study that `command` starts twice, once killed `kills` times; nothing is forgiven.

    The command gets `--workdir=…`. Each kill comes at a random time up to `latest` times what the
    undisturbed study took, start-up included; a study that ends before is killed no more. InputError
    if the command fails.
    """
    undisturbed, killed = workdir / "undisturbed", workdir / "killed"
    if undisturbed.exists() or killed.exists():
        raise InputError(f"{workdir} holds an earlier interruption; choose another workdir")
    make_folder(workdir)
    started = time.monotonic()
    _run([*command, f"--workdir={undisturbed}"], workdir, None)
    whole = time.monotonic() - started
    draws, done = np.random.default_rng(seed), []
    while len(done) < kills:
        seconds = draws.uniform(0, latest * whole)
        if _run([*command, f"--workdir={killed}"], workdir, seconds):
            break
        found = states(load_folder(killed)) if (killed / FILE).exists() else {}
        logging.info("killed after %.1f s: %s", seconds, found)
        done.append(Kill(seconds, found))
    _run([*command, f"--workdir={killed}"], workdir, None)
    after = _outcomes(killed)
    return Interruption(
        done, whole, {name: (run, after.get(name)) for name, run in _outcomes(undisturbed).items()}
    )


def _run(command: list[str], workdir: Path, seconds: float | None) -> bool:
    """Runs the command; whether it ended by itself before it would have been killed."""
    with (workdir / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            process.wait()
    if code:
        raise InputError(f"the study fails with exit code {code}; {workdir / 'log.txt'} says why")
    return True


def _outcomes(workdir: Path) -> dict[str, tuple[Any, Any]]:
    """Result and records of every finished run of a study, by the run's folder."""
    folder = load_folder(workdir)
    runs = [run for name in folder.arms for run in folder.all_runs(name) if run.result]
    return {
        run.workdir.relative_to(workdir).as_posix(): (
            {key: value for key, value in run.result.items() if key not in _TIMES},
            read_metrics(run.workdir),
        )
        for run in runs
    }


def _loss(outcome: Any) -> str:
    return f"{outcome[0]['loss']:.17g}" if outcome else ""


def _told(kill: Kill) -> str:
    return ", ".join(f"{n} {state}" for state, n in kill.states.items() if n) or "none"


def write_interruption(found: Interruption, command: str, path: Path) -> None:
    """Writes the Markdown page."""
    kills = [(str(i), f"{kill.seconds:.1f}", _told(kill)) for i, kill in enumerate(found.kills, 1)]
    rows = [(name, _loss(a), _loss(b), "yes" if a == b else "no") for name, (a, b) in found.runs.items()]
    same = len(found.runs) - len(found.different)
    lines = [
        "# An interrupted study",
        "",
        f"A study was killed (SIGKILL) {len(found.kills)} times at random, and started again each time by "
        f"the same command. {same} of its {len(found.runs)} runs came to the same as those of the "
        f"undisturbed study ({found.seconds:.0f} s), to the last bit: the result, but for its times, and "
        "every record of metrics.jsonl.",
        "",
        markdown_table(kills, ("kill", "seconds after start", "runs then"), disable_numparse=True),
        "",
        markdown_table(
            rows,
            ("run", "test loss, undisturbed", "test loss, killed", "the same"),
            disable_numparse=True,
        ),
        "",
        *origin_lines([this_session(command)]),
        "",
    ]
    write_text(path, "\n".join(lines))
