"""An hour with an accelerator: python scripts/accelerator.py --minutes=60 --data=FOLDER

Steps in order of worth: comparisons with the CPU, speed beside PyTorch's, then the papers' tables, all seeds
of an arm as one program, on images of --data (CIFAR-10 in folders; without it, as tensorflow-datasets has
prepared it). Each step is a command of its own. Its output goes to a file of its name in --workdir as it
comes, and a step that ended well is not repeated. Given again, the command goes on with what is left, and
what was cut short resumes. --tiny rehearses every step with the smallest nets, on any machine; --dry_run
lists the commands. Prints how each step ended.
"""

import contextlib
import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cli
from absl import flags, logging

from resnet.files import make_folder, write_text

SCRIPTS = Path(__file__).resolve().parent
SECONDS_TO_SAVE = 60
DONE = "done"


@dataclasses.dataclass(frozen=True)
class Step:
    """A command: a script of this folder and its arguments, and what to add to them in a rehearsal."""

    script: str
    arguments: tuple[str, ...]
    tiny: tuple[str, ...]

    def command(self) -> list[str]:
        """argv."""
        more = self.tiny if cli.FLAGS.tiny else ()
        return [sys.executable, str(SCRIPTS / f"{self.script}.py"), *self.arguments, *more]


def _steps() -> dict[str, Step]:
    workdir = cli.FLAGS.workdir

    def benchmark(parts: str, *arguments: str) -> Step:
        output = f"--output={workdir / 'benchmark.json'}"
        tiny = ("--quick", "--rounds=2", "--seconds=1")
        return Step("benchmark", (f"--parts={parts}", "--missing", output, *arguments), tiny)

    def study(name: str, reference: str, *arguments: str) -> Step:
        seeds = ",".join(map(str, range(2 if cli.FLAGS.tiny else cli.FLAGS.seeds)))
        scale = "small" if cli.FLAGS.tiny else "paper"
        folder = cli.FLAGS.data
        data = ("--config.data.name=image_folder", f"--config.data.dir={folder}") if folder else ()
        settings = (f"--study.scale={scale}", f"--study.seeds={seeds}", f"--workdir={workdir / name}")
        tiny = ("--config.train.duration=2 steps", "--config.data.train_limit=200", f"--only={reference}")
        return Step("study", (f"--study=configs/studies/{name}.py", *settings, *data, *arguments), tiny)

    smallest = ("--steps=2", "--config.model.blocks=1,1,1", "--config.data.train_limit=64")
    return {
        "checks": Step("device_checks", (f"--workdir={workdir / 'checks'}",), smallest),
        "planned": Step(
            "planned",
            ("--nets=resnet20,resnet20x16,resnet50", f"--output={workdir / 'planned.json'}"),
            ("--nets=resnet8", "--steps=1", "--chip=h100"),
        ),
        "limits": benchmark("limits", "--dtype=bfloat16"),
        "speed": benchmark("training,memory", "--dtype=bfloat16", "--compiled"),
        "seeds": benchmark("seeds"),
        "he2015": study("he2015_depth", "resnet-20", "--only=resnet-20,plain-20"),
        "he2015_deep": study("he2015_depth", "resnet-20"),
        "he2016": study("he2016_shortcuts", "original"),
    }


def main(overrides: list[str]) -> dict[str, Any]:
    """Runs what is left, step by step, until the time is over."""
    cli.refuse_overrides(overrides, "each step has its own configs")
    # The steps run in the clone, wherever this was called.
    for flag in (cli.FLAGS["workdir"], cli.FLAGS["data"]):
        if flag.value is not None:
            flag.value = flag.value.absolute()
    if cli.FLAGS.tiny:  # Nothing of a rehearsal stands for what the hour is to bring.
        cli.FLAGS.workdir = cli.FLAGS.workdir / "tiny"
    steps, folder = _steps(), cli.FLAGS.workdir
    for name in cli.FLAGS.steps:
        if name not in steps:
            raise cli.InputError(f"--steps knows {', '.join(steps)}; got {name!r}")
    steps = {name: step for name, step in steps.items() if name in (cli.FLAGS.steps or steps)}
    if cli.FLAGS.data and not cli.FLAGS.data.is_dir():
        raise cli.InputError(f"--data must be a folder; {cli.FLAGS.data} is none")
    if cli.FLAGS.dry_run:
        return {name: shlex.join(step.command()) for name, step in steps.items()}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, _leave)
    make_folder(folder)
    end = time.monotonic() + 60 * cli.FLAGS.minutes
    ended = {}
    for name, step in steps.items():
        mark, command = folder / f"{name}.{DONE}", shlex.join(step.command())
        if mark.exists() and mark.read_text("utf-8") == command:
            ended[name] = DONE
        elif end - time.monotonic() < SECONDS_TO_SAVE:
            ended[name] = "no time"
        else:
            ended[name] = _run(name, step, end - time.monotonic() - SECONDS_TO_SAVE)
            if ended[name] == DONE:
                write_text(mark, command)
    return ended


def _run(name: str, step: Step, seconds: float) -> str:
    """Runs a step, at most so long; how it ended, in words."""
    output, begun = cli.FLAGS.workdir / f"{name}.log", time.monotonic()
    logging.info("%s: %s > %s", name, shlex.join(step.command()), output)
    with output.open("ab") as log:
        process = subprocess.Popen(
            step.command(),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=SCRIPTS.parent,
            start_new_session=True,  # so that a signal to this process reaches the step once, by _stop
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = _stop(process)
            logging.info("%s: cut short", name)
            return f"cut short (exit code {code})"
        except BaseException:
            logging.info("%s: told to save and stop; the same command goes on", name)
            _stop(process)
            raise
    logging.info("%s: exit code %d after %.0f s", name, code, time.monotonic() - begun)
    return DONE if code == 0 else f"exit code {code}, see {output}"


def _stop(process: subprocess.Popen) -> int:
    """Lets a step save, then ends all that it started, so that nothing stays on the card; the exit code."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.wait(SECONDS_TO_SAVE)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _leave(number: int, _: object) -> None:
    """Unwinds on a signal that would end this process and leave its step running."""
    raise SystemExit(128 + number)


def define() -> None:
    """Defines the flags."""
    end = "When to end: what runs then is told to save and stop."
    cli.define_path("workdir", "runs/accelerator", "Folder of what the steps write.")
    cli.define_path("data", None, "Folder with train/<class>/ and test/<class>/, for the papers' tables.")
    flags.DEFINE_float("minutes", 60.0, end, lower_bound=0.0)
    flags.DEFINE_list("steps", [], "Steps to run, with commas between; by default all that are left.")
    flags.DEFINE_integer("seeds", 16, "Seeds of each arm of the papers' tables.", lower_bound=1)
    flags.DEFINE_bool("tiny", False, "Rehearse: the smallest nets and a few training steps.")
    flags.DEFINE_bool("dry_run", False, "List the commands; run none.")


if __name__ == "__main__":
    cli.run(main, define)
