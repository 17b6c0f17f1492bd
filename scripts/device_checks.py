"""Compares runs on the accelerator with the CPU's: python scripts/device_checks.py --workdir=runs/checks

Each check trains by scripts/train.py in processes of its own: the accelerator's weights against the CPU's,
twice the same with --config.deterministic, bfloat16 against float32, and a run that begins on the accelerator
and ends on the CPU. Where there is no accelerator, the CPU stands for it, which rehearses the checks. Prints
what each found and its bound, and ends with exit code 1 if one is exceeded.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli
from absl import flags

cli.define_path("workdir", "runs/device_checks", "Folder of the runs; what an earlier call left there goes.")
flags.DEFINE_integer("steps", 40, "Steps of each run.", lower_bound=2)

ROOT = Path(__file__).resolve().parents[1]
# One rounding, TensorFloat-32's, is ruled out: what is left is the order of sums.
HIGHEST = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}


def _run(name: str, *arguments: str, cpu: bool = False, steps: int = 0) -> dict[str, Any]:
    """The result of training in the folder `name`, on the accelerator or on the CPU."""
    steps = steps or cli.FLAGS.steps
    settings = [f"--workdir={cli.FLAGS.workdir / name}", f"--config.train.duration={steps} steps"]
    settings += ["--config.schedule.name=constant", "--config.schedule.warmup=0 steps", *arguments]
    command = [sys.executable, str(ROOT / "scripts/train.py"), f"--config={ROOT / 'configs/digits_small.py'}"]
    environment = os.environ | HIGHEST | ({"JAX_PLATFORMS": "cpu"} if cpu else {})
    done = subprocess.run([*command, *settings], env=environment, capture_output=True, text=True, check=False)
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
    return max(jax.tree.leaves(apart))


def like_the_cpu() -> float:
    """Weights after two steps: later ones differ as rounding grows from step to step."""
    _run("accelerator", steps=2)
    _run("cpu", cpu=True, steps=2)
    return _distance("accelerator", "cpu")


def deterministic() -> float:
    """1 if two runs with --config.deterministic end with other weights, else 0."""
    first, second = (_run(f"deterministic{i}", "--config.deterministic") for i in (1, 2))
    return float(first["sha256"] != second["sha256"])


def bfloat16() -> float:
    """How much higher the test loss is with activations in bfloat16, as a share of the loss."""
    wide, narrow = (_run(dtype, f"--config.model.dtype={dtype}") for dtype in ("float32", "bfloat16"))
    return narrow["loss"] / wide["loss"] - 1


def restored_on_the_cpu() -> float:
    """Difference in test accuracy of a run that the CPU took over half way, from one that it did not."""
    _run("moved", steps=cli.FLAGS.steps // 2)
    moved = _run("moved", cpu=True)
    return abs(moved["top1"] - _run("stayed")["top1"])


# The largest value that passes.
CHECKS: dict[Callable[[], float], float] = {
    like_the_cpu: 1e-3,
    deterministic: 0.0,
    bfloat16: 0.1,
    restored_on_the_cpu: 0.05,
}


def main(overrides: list[str]) -> dict[str, Any]:
    """Runs the checks one after the other."""
    if overrides:
        raise cli.InputError(f"{overrides[0]} does not apply: the checks have their own configs")
    import jax

    from resnet.runs.metrics.records import to_json

    shutil.rmtree(cli.FLAGS.workdir, ignore_errors=True)
    backend = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    jax.config.update("jax_platforms", "cpu")  # this process only compares, and leaves the accelerator alone
    found = {check.__name__: (check(), bound) for check, bound in CHECKS.items()}
    rows = {name: {"found": value, "bound": bound} for name, (value, bound) in found.items()}
    exceeded = [name for name, (value, bound) in found.items() if not value <= bound]
    if exceeded:
        raise SystemExit(f"error: {', '.join(exceeded)} beyond the bound on {backend}: {to_json(rows)}")
    return {"backend": backend} | rows


if __name__ == "__main__":
    cli.run(main)
