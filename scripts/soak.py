"""Tries to lose a run: python scripts/soak.py --fault=kill --count=100 --minutes=60

Trains a tiny net once undisturbed, and then again and again, each time with a fault at a random moment,
and starts it anew until it is finished. Counts the phases that were met, and how often the end was not
that of the undisturbed run, to the last bit. Faults: kill (SIGKILL), term (SIGTERM), bitflip and truncate
(SIGKILL, and damage to the latest checkpoint), disk (full for a while; needs root). With --record the
tally is added to results/reliability, from which scripts/reliability.py makes the page.
"""

import collections
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cli
from absl import flags, logging

ROOT = Path(__file__).resolve().parents[1]
FAULTS = ("kill", "term", "bitflip", "truncate", "disk")
STEPS = 60


# A line a step tells where a run is; the data order, augmentation, average and statistics all matter.
CONFIG = f"""
from resnet.config import Config

def get_config():
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.blocks, config.model.width = (1, 1, 1), 0.25
    config.train.batch_size, config.train.duration, config.train.ema = 8, "{STEPS} steps", 0.9
    config.train.evaluate_every, config.train.log_every = "6 steps", "1 steps"
    config.checkpoint.every = "5 steps"
    return config
"""


@dataclasses.dataclass
class Soak:
    """The runs of one fault, and what became of them."""

    fault: str
    folder: Path
    draw: random.Random
    count: int
    end: float
    """In seconds of time.monotonic."""
    phases: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    """Where the faults struck."""
    faults: int = 0
    runs: int = 0
    losses: list[str] = dataclasses.field(default_factory=list)
    """What differed from the undisturbed run, or did not start again."""
    lost_steps: list[int] = dataclasses.field(default_factory=list)
    """Steps to do again after each fault."""

    @property
    def goes_on(self) -> bool:
        """Whether neither the count nor the time is reached."""
        return self.faults < self.count and time.monotonic() < self.end


def main(overrides: list[str]) -> dict[str, Any]:
    """Soaks until the count or the time is reached; the tally."""
    cli.refuse_overrides(overrides, "the run has its own config")
    from resnet.files import check_writable

    values = cli.FLAGS
    check_writable(values.record and values.record / f"soak_{values.fault}.json")
    folder = values.workdir.absolute() / values.fault
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.py").write_text(CONFIG, "utf-8")
    end = time.monotonic() + 60 * values.minutes
    soak = Soak(values.fault, folder, random.Random(values.seed), values.count, end)
    disk = SmallDisk(folder / "disk") if values.fault == "disk" else None
    whole, times = undisturbed(soak)
    try:
        while soak.goes_on:
            soak.runs += 1
            one_run(soak, whole, times, disk)
            logging.info(
                "%s: %d faults in %d runs, %d losses", soak.fault, soak.faults, soak.runs, len(soak.losses)
            )
    finally:
        if disk:
            disk.close()
    tally = {"fault": soak.fault, "tries": soak.faults, "runs": soak.runs, "losses": len(soak.losses)}
    tally |= {"phases": dict(soak.phases), "steps_again": sum(soak.lost_steps), "lost": soak.losses}
    if values.record:
        record(tally, values.record)
    return tally


Times = tuple[float, float]  # seconds until a run opens its folder, and from there to its end


def undisturbed(soak: Soak) -> tuple[dict[str, Any], Times]:
    """What the run without faults leaves, and its times when the programs are compiled."""
    opened = end = 0.0
    for name in ("first", "whole"):
        begun = time.time()
        process = start(soak, soak.folder / name)
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the undisturbed run failed: {errors}")
        opened, end = (soak.folder / name / "run.json").stat().st_mtime - begun, time.time() - begun
    return traces(soak.folder / "whole"), (opened, end - opened)


def start(soak: Soak, workdir: Path) -> subprocess.Popen:
    """Trains in `workdir` as a process of its own."""
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"--workdir={workdir}"]
    command += [f"--config={soak.folder / 'config.py'}"]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(soak.folder.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, env=environment, stdout=pipe, stderr=pipe)


def traces(workdir: Path) -> dict[str, Any]:
    """All that must be the same: the hash of the weights, the metrics line by line, the test result."""
    result = json.loads((workdir / "result.json").read_bytes())
    names = ("sha256", "loss", "top1", "n", "step", "validation", "without_ema")
    return {name: result[name] for name in names} | {"lines": (workdir / "metrics.jsonl").read_text("utf-8")}


def one_run(soak: Soak, whole: dict[str, Any], times: Times, disk: "SmallDisk | None") -> None:
    """Starts a run until it is finished, with a fault each time as long as there are some left."""
    workdir = (disk.folder if disk else soak.folder) / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    while not (workdir / "result.json").exists():
        process = start(soak, workdir)
        if soak.goes_on:
            strike(soak, process, workdir, times, disk)
        _, errors = process.communicate()
        announced = process.returncode in (-signal.SIGKILL, 143, 128 + signal.SIGTERM, -signal.SIGTERM)
        # A disk that is full as a run starts, or ends, is named, and the next start goes on.
        announced |= bool(disk and re.search("^error: .*(could not|cannot) ", errors, re.MULTILINE))
        if process.returncode and not announced:
            soak.losses.append(f"exit code {process.returncode}: {errors[-500:]}")
            return
    different = [name for name, value in traces(workdir).items() if value != whole[name]]
    if different:
        soak.losses.append(f"other {', '.join(different)}")


def strike(
    soak: Soak, process: subprocess.Popen, workdir: Path, times: Times, disk: "SmallDisk | None"
) -> None:
    """The fault, at a moment of the start, of the time after it, or, half of the times, after a step."""
    from resnet.runs.checkpoints.checkpoint import steps_on_disk

    begun, (before, after), kind = time.time(), times, soak.draw.random()
    if kind < 0.2:
        time.sleep(soak.draw.uniform(0.0, before))
    else:
        while process.poll() is None and not opened_since(workdir, begun):
            time.sleep(0.005)
        if kind < 0.5:
            time.sleep(soak.draw.uniform(0.0, after))
        else:
            target = soak.draw.randint(min(last_record(workdir)["step"] + 1, STEPS), STEPS)
            while process.poll() is None and last_record(workdir)["step"] < target:
                time.sleep(0.002)
            time.sleep(soak.draw.uniform(0.0, 0.1))
    if process.poll() is not None:
        return
    phase, step = phase_of(workdir, begun)
    if disk:
        disk.fill()
        time.sleep(soak.draw.uniform(0.0, after))
        disk.empty()
    else:
        process.send_signal(signal.SIGTERM if soak.fault == "term" else signal.SIGKILL)
        process.wait()
    soak.faults += 1
    soak.phases[phase] += 1
    saved = steps_on_disk(workdir)
    if soak.fault in ("bitflip", "truncate") and len(saved) > 1:
        damage(soak, workdir / "checkpoints" / str(saved.pop(0)))
    if not disk:
        soak.lost_steps.append(max(step - (saved[0] if saved else 0), 0))


def opened_since(workdir: Path, begun: float) -> bool:
    """Whether a run has written what it is since then."""
    path = workdir / "run.json"
    return path.exists() and path.stat().st_mtime >= begun


def phase_of(workdir: Path, begun: float) -> tuple[str, int]:
    """(what a run started at `begun` is at, as its files tell, its last step)."""
    path, last = workdir / "metrics.jsonl", last_record(workdir)
    step = last["step"]
    if not opened_since(workdir, begun):
        return "imports and data", step
    with contextlib.suppress(FileNotFoundError):  # of a save that ends; half of an earlier one may lie there
        if any(path.stat().st_mtime >= begun for path in (workdir / "checkpoints").glob("*tmp*")):
            return "save", step
    if not step or path.stat().st_mtime < (workdir / "run.json").stat().st_mtime + 0.05:
        return "restore and compilation", step
    if step == STEPS:
        return "end", step
    return "evaluation" if step % 6 == 0 and last["split"] == "train" else "steps", step


def last_record(workdir: Path) -> dict[str, Any]:
    """The last whole line of the metrics."""
    from resnet.runs.metrics.records import read_metrics

    return (read_metrics(workdir) or [{"step": 0, "split": ""}])[-1]


def damage(soak: Soak, checkpoint: Path) -> None:
    """One bit of one of its files turned, or its end cut off."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    path = soak.draw.choice(files)
    content = bytearray(path.read_bytes())
    place = soak.draw.randrange(len(content))
    if soak.fault == "truncate":
        content = content[:place]
    else:
        content[place] ^= 1 << soak.draw.randrange(8)
    path.write_bytes(content)


class SmallDisk:
    """A file system of two megabytes, which can be filled."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], check=True)

    def fill(self) -> None:
        """Fills the file system."""
        with (self.folder / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def empty(self) -> None:
        """Removes the file that fills it."""
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmounts the file system."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


ROWS = {
    "kill": ("SIGKILL at a random moment", "the next start resumes at the last checkpoint"),
    "term": ("SIGTERM at a random moment", "saves within the step in flight, exits 143, resumes there"),
    "bitflip": (
        "SIGKILL, and a bit of the latest checkpoint turned",
        "named, set aside, the one before used",
    ),
    "truncate": ("SIGKILL, and a file of the latest checkpoint cut", "named, set aside, the one before used"),
    "disk": ("a disk that is full for a while", "training goes on, lines and saves are tried again"),
}


def record(tally: dict[str, Any], folder: Path) -> None:
    """Adds the tally to those in soak_<fault>.json."""
    from resnet.runs.metrics.records import write_json
    from resnet.runs.provenance import this_session

    path, (fault, happens) = folder / f"soak_{tally['fault']}.json", ROWS[tally["fault"]]
    new = {"fault": fault, "happens": happens, "parts": []}
    row = json.loads(path.read_bytes()) if path.exists() else new
    write_json(path, row | {"parts": [*row["parts"], tally | this_session(cli.command())]})


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_enum("fault", "kill", FAULTS, "What happens to the run.")
    flags.DEFINE_integer("count", 100, "How many times.", lower_bound=1)
    flags.DEFINE_float("minutes", 60.0, "When to end, however many times it was.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of the moments.")
    cli.define_path("workdir", "runs/soak", "Folder of the runs; what an earlier soak left there goes.")
    cli.define_path("record", None, "Folder to add the tally to, such as results/reliability.")


if __name__ == "__main__":
    cli.run(main, define)
