"""Where numbers come from: command, commit, versions and machine, in run.json and on every page."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet.config import Config, config_to_dict
from resnet.training.machine import numerics
from resnet.training.records import write_json

FILE = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_run_json(workdir: str | os.PathLike, config: Config, command: Sequence[str] | str) -> None:
    """Adds the session that begins, with all that its numbers depend on, to those that run.json holds."""
    path = Path(workdir) / FILE
    sessions = json.loads(path.read_text())["sessions"] if path.exists() else []
    session = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command if isinstance(command, str) else shlex.join(command),
        "git": git_state(Path(__file__).parents[2]),
        "versions": versions(),
        "devices": devices(),
        "numerics": numerics(config),
        "config": config_to_dict(config),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"sessions": [*sessions, session]})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    return found | {package: importlib.metadata.version(package) for package in PACKAGES}


def devices() -> dict[str, Any]:
    """The accelerators in use, and the processors of this machine."""
    kinds = [device.device_kind for device in jax.devices()]
    return {"backend": jax.default_backend(), "kinds": kinds, "cpu_count": os.cpu_count()}


def digest(tree: Any) -> str:
    """SHA-256 of paths, types, shapes and bytes of all arrays in a tree: equal only to the last bit."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit checked out in `folder`, and whether files differ from it; None without one."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(folder), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
