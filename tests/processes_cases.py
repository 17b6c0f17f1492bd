"""A tiny run for several processes, and what is read of it while it goes."""

import json
import socket
import subprocess
import time
from pathlib import Path

CONFIG = """
from resnet.config import Config

def get_config():
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.family, config.model.blocks, config.model.width = "chain", (1,), 0.25
    config.train.batch_size, config.train.duration, config.train.ema = 8, "{duration}", 0.9
    config.train.log_every, config.checkpoint.every = "1 steps", "2 steps"
    config.schedule.name, config.schedule.learning_rate = "constant", 0.01
    return config
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in lines(workdir) if line["split"] == "train"]


def wait_for_steps(workdir: Path, n: int, runs: list[subprocess.Popen]) -> None:
    end = time.monotonic() + 600
    while not (workdir / "metrics.jsonl").exists() or len(losses(workdir)) < n:
        assert time.monotonic() < end and all(run.poll() is None for run in runs)
        time.sleep(0.05)


def in_mpi(index: int, count: int) -> dict[str, str]:
    """What `mpirun` sets in the environment of a process."""
    world = {"SIZE": count, "RANK": index, "LOCAL_RANK": index}
    variables = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in world.items()}
    return variables | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"}
