"""What training as a user does it costs beyond its steps."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from resnet.data.config import DataConfig
from resnet.runtime.devices import make_mesh
from resnet.training.loop import train
from scripts.benchmarks import ours
from scripts.benchmarks.streams import noise, write_files
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


def streamed(case: Case, effort: Any) -> dict[str, Any]:
    """Images a second of training on images in memory, and on a stream of JPEGs of the same size."""
    count, each = (STEPS, case.batch * 2) if case.batch > 4 else (2, 16)
    values: dict[str, list[float]] = {"from memory": [], "streamed": []}
    with tempfile.TemporaryDirectory() as folder, _programs_kept(Path(folder) / "programs"):
        files = {f"train/{i % 10}/{i}.jpg": noise(case.side, i) for i in range(each)}
        write_files(Path(folder) / "images", files)
        for i in range(1 + min(5, effort.rounds)):
            for name, storage in (("from memory", "memory"), ("streamed", "stream")):
                data = DataConfig(
                    name="image_folder", dir=f"{folder}/images", image_size=case.side, storage=storage
                )
                runs = [Path(folder) / f"{i}-{storage}-{n}" for n in (1, 3)]
                short, long = (
                    _seconds(case, n * count, run, data) for n, run in zip((1, 3), runs, strict=True)
                )
                if i:  # the first compiles
                    values[name].append(2 * count * case.batch / (long - short))
    return compared(values, "from memory", "images/s")


def _seconds(case: Case, steps: int, workdir: Path, data: DataConfig | None = None) -> float:
    """Seconds of a whole run, on synthetic images by default."""
    config = ours.config_of(case)
    config.data = data or DataConfig(name="synthetic")
    config.data.validation = 0.0
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
