"""What training as a user does it costs beyond its steps."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from resnet.runtime.devices import make_mesh
from resnet.training.loop import train
from scripts.benchmarks import ours
from scripts.benchmarks.timing import compared
from scripts.peers.torch_nets import Case

STEPS = 20
CHECKPOINT_EVERY = 20
_CACHE: dict[str, Any] = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}


def loop(case: Case, effort: Any) -> dict[str, Any]:
    """Images a second of bare steps, and of runs with records, progress and checkpoints.

    Of two runs that differ in their length, the difference: starting, compiling and ending drop out.
    """
    count = STEPS if case.batch > 4 else 2
    step = ours.training_step(case)
    values: dict[str, list[float]] = {"bare steps": [], "training": []}
    with tempfile.TemporaryDirectory() as folder, _programs_kept(Path(folder) / "programs"):
        _seconds(case, count, Path(folder) / "first")  # compiles
        for i in range(min(5, effort.rounds)):
            begun = time.perf_counter()
            for _ in range(2 * count):
                step()
            bare = time.perf_counter() - begun
            short, long = (_seconds(case, n * count, Path(folder) / f"{i}-{n}") for n in (1, 3))
            values["bare steps"].append(2 * count * case.batch / bare)
            values["training"].append(2 * count * case.batch / (long - short))
    return compared(values, "bare steps", "images/s")


def _seconds(case: Case, steps: int, workdir: Path) -> float:
    """Seconds of a whole run on synthetic images."""
    config = ours.config_of(case)
    config.data.name, config.data.validation = "synthetic", 0.0
    config.train.duration, config.train.log_every = f"{steps} steps", "10 steps"
    config.checkpoint.every = f"{CHECKPOINT_EVERY} steps"
    begun = time.perf_counter()
    train(config, workdir, mesh=make_mesh(1))
    return time.perf_counter() - begun


@contextlib.contextmanager
def _programs_kept(folder: Path) -> Iterator[None]:
    """Compiled programs are kept in `folder` meanwhile, whatever their size."""
    before = {name: getattr(jax.config, name) for name in _CACHE}
    for name, value in (_CACHE | {"jax_compilation_cache_dir": str(folder)}).items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
