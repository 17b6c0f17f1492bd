"""Compares runs on the accelerator with the CPU's: python scripts/device_checks.py --workdir=runs/checks

Each check trains by scripts/train.py in processes of its own: the accelerator's weights against the CPU's,
twice the same with --config.deterministic, bfloat16 against float32, and a run that begins on the accelerator
and ends on the CPU. Where there is no accelerator, the CPU stands for it, which rehearses the checks. What a
check found goes to checks.json in --workdir at once, and what has passed is not repeated. Overrides, such as
--config.model.width=0.25, hold for all runs. Prints what each found and its bound, and ends with exit code 1
if one fails or exceeds it.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
from absl import flags, logging

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., dict[str, Any]]
# One rounding, TensorFloat-32's, is ruled out: what is left is the order of sums.
HIGHEST = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}


def trained(
    overrides: list[str], name: str, *arguments: str, cpu: bool = False, steps: int = 0
) -> dict[str, Any]:
    """The result of training in the folder `name`, check/run, on the accelerator or on the CPU."""
    steps = steps or cli.FLAGS.steps
    settings = [f"--workdir={cli.FLAGS.workdir / name}", f"--config.train.duration={steps} steps"]
    settings += ["--config.schedule.name=constant", "--config.schedule.warmup=0 steps"]
    command = [sys.executable, str(ROOT / "scripts/train.py"), f"--config={ROOT / 'configs/digits_small.py'}"]
    environment = os.environ | HIGHEST | ({"JAX_PLATFORMS": "cpu"} if cpu else {})
    command += [*settings, *overrides, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise cli.InputError(f"{name}: train.py ended with code {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _distance(one: str, other: str) -> float:
    """The largest difference of two runs' weights, relative to the largest weight of each array."""
    import jax
    import numpy as np

    import resnet

    a, b = (
        jax.device_get(resnet.load(cli.FLAGS.workdir / name).variables["params"]) for name in (one, other)
    )
    apart = jax.tree.map(lambda x, y: float(np.abs(x - y).max() / np.abs(y).max()), a, b)
    return float(np.max(jax.tree.leaves(apart)))  # NaN where one is


def like_the_cpu(run: Run) -> float:
    """Weights after two steps: later ones differ as rounding grows from step to step."""
    run("like_the_cpu/accelerator", steps=2)
    run("like_the_cpu/cpu", cpu=True, steps=2)
    return _distance("like_the_cpu/accelerator", "like_the_cpu/cpu")


def deterministic(run: Run) -> float:
    """1 if two runs with --config.deterministic end with other weights, else 0."""
    first, second = (run(f"deterministic/{i}", "--config.deterministic") for i in (1, 2))
    return float(first["sha256"] != second["sha256"])


def bfloat16(run: Run) -> float:
    """How much higher the test loss is with activations in bfloat16, as a share of the loss."""
    dtypes = "float32", "bfloat16"
    wide, narrow = (run(f"bfloat16/{dtype}", f"--config.model.dtype={dtype}") for dtype in dtypes)
    return narrow["loss"] / wide["loss"] - 1


def restored_on_the_cpu(run: Run) -> float:
    """Difference in test accuracy of a run that the CPU took over half way, from one that it did not."""
    run("restored_on_the_cpu/moved", steps=cli.FLAGS.steps // 2)
    moved = run("restored_on_the_cpu/moved", cpu=True)
    return abs(moved["top1"] - run("restored_on_the_cpu/stayed")["top1"])


# The largest value that passes.
CHECKS: dict[Callable[[Run], float], float] = {
    like_the_cpu: 1e-3,
    deterministic: 0.0,
    bfloat16: 0.1,
    restored_on_the_cpu: 0.05,
}


def main(overrides: list[str]) -> dict[str, Any]:
    """Runs the checks that have not passed, one after the other."""
    import jax

    from resnet.runs.metrics.records import read_json, to_json, write_json

    about = {"backend": backend(), "steps": cli.FLAGS.steps, "overrides": overrides}
    run = functools.partial(trained, overrides)
    jax.config.update("jax_platforms", "cpu")  # this process only compares, and leaves the accelerator alone
    path = cli.FLAGS.workdir / "checks.json"
    rows = read_json(path, lambda known: about.items() <= known.items()) or dict(about)
    for check, bound in CHECKS.items():
        name = check.__name__
        if name in rows and passed(rows[name]):
            continue
        shutil.rmtree(cli.FLAGS.workdir / name, ignore_errors=True)
        try:
            rows[name] = {"found": check(run), "bound": bound}
        except cli.InputError as error:
            rows[name] = {"error": str(error), "bound": bound}
        logging.info("%s: %s", name, rows[name])
        write_json(path, rows)
    if missed := [check.__name__ for check in CHECKS if not passed(rows[check.__name__])]:
        raise SystemExit(f"error: not passed on {about['backend']}: {', '.join(missed)}: {to_json(rows)}")
    return rows


def passed(row: dict[str, Any]) -> bool:
    """Whether a check ran, and found no more than its bound."""
    return row.get("found") is not None and row["found"] <= row["bound"]  # NaN is null in the file


def backend() -> str:
    """What JAX computes on here, asked in another process: this one starts no accelerator."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def define() -> None:
    """Defines the flags."""
    cli.define_path("workdir", "runs/device_checks", "Folder of the runs and of what they found.")
    flags.DEFINE_integer("steps", 40, "Steps of each run.", lower_bound=2)


if __name__ == "__main__":
    cli.run(main, define)
