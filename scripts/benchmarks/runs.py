"""Whole runs as a user starts them: seeds one after the other, and as one program."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.timing import compared
from scripts.peers.torch_nets import TINY, Case

ROOT = Path(__file__).parents[2]
SEEDS = 4


def runs(case: Case, effort: Any) -> dict[str, Any]:
    """Seconds of four runs of configs/digits.py by scripts/train.py, from their start to their results.

    Compiled programs are there from a run before, as they are for all but a user's first.
    """
    duration = "1 epochs" if case is TINY else "20 epochs"
    values: dict[str, list[float]] = {"one after the other": [], "together": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(1 + min(3, effort.rounds)):
            for name, series in values.items():
                workdir = Path(folder) / f"{i}-{name.replace(' ', '_')}"
                begun = time.perf_counter()
                if name == "together":
                    _train(workdir, duration, folder, f"--config.train.seeds={SEEDS}")
                else:
                    for seed in range(SEEDS):
                        _train(workdir / str(seed), duration, folder, f"--config.seed={seed}")
                if i:  # the first compiles
                    series.append(time.perf_counter() - begun)
    return compared(values, "one after the other", "s")


def _train(workdir: Path, duration: str, folder: str, *overrides: str) -> None:
    command = [sys.executable, "scripts/train.py", "--config=configs/digits.py", f"--workdir={workdir}",
               f"--config.train.duration={duration}", f"--config.cache.dir={folder}/programs"]  # fmt: skip
    subprocess.run([*command, *overrides], cwd=ROOT, check=True, capture_output=True)
