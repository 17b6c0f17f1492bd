"""The origin of numbers: command, commit, versions and machine, for run.json and for every page."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet.config import Config, config_to_dict
from resnet.runs.metrics.records import read_json, write_json
from resnet.runs.tables import code
from resnet.runtime.machine import devices, numerics
from resnet.runtime.sharding import fetched

FILE = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_run_json(
    workdir: str | os.PathLike, config: Config, command: Sequence[str] | str, seeds: Sequence[int] = ()
) -> None:
    """Adds the session that begins to run.json, with everything on which its numbers depend.

    `seeds`: the seeds trained as one program, if there are several.
    """
    path = Path(workdir) / FILE
    earlier = sessions(workdir, aside=True)
    own = {"numerics": numerics(config), "config": config_to_dict(config), "seeds": list(seeds)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"sessions": [*earlier, this_session(command) | own]})


def this_session(command: Sequence[str] | str) -> dict[str, Any]:
    """The record of how this process trains: time of its start, command, commit, versions and machine."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command if isinstance(command, str) else shlex.join(command),
        "git": git_state(Path(__file__).parents[2]),
        "versions": versions(),
        "devices": devices(),
    }


def sessions(workdir: str | os.PathLike, *, aside: bool = False) -> list[dict[str, Any]]:
    """The sessions of a run, as run.json has them; none where it is missing or damaged.

    With `aside`, which is for the holder of the folder, a damaged one is moved out of the way.
    """
    known = read_json(Path(workdir) / FILE, _are_sessions, aside=aside)
    return known["sessions"] if known else []


def _are_sessions(value: Any) -> bool:
    return all(isinstance(session, dict) for session in value["sessions"])


def last_session(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """The session that a run ended with; None where run.json is missing or damaged."""
    return (sessions(workdir) or [None])[-1]


def origin(sessions: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """("Command", "python …"), Commit, Machine and Versions of numbers on a page, each text once."""
    wordings = {
        "Command": lambda session: session["command"],
        "Commit": lambda session: commit(session) or "unknown",
        "Machine": lambda session: _listed(session["devices"]),
        "Versions": lambda session: _listed(session["versions"]),
    }
    sessions = list(sessions)
    pairs = [(name, words(session)) for name, words in wordings.items() for session in sessions]
    return list(dict.fromkeys(pairs))


def origin_lines(sessions: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same as a Markdown list."""
    return told_lines(origin(sessions))


def told_lines(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """What `origin` returned, as a Markdown list."""
    return [f"- {name}: {code(text) if name == 'Command' else text}" for name, text in pairs]


def commit(session: Mapping[str, Any]) -> str:
    """The commit of a session, marked if files differed from it; empty outside a repository."""
    git = session["git"]
    if not git or not git.get("dirty", False):
        return git["commit"] if git else ""
    code = f" (code {git['code']})" if "code" in git else ""  # earlier sessions have none
    return f"{git['commit']} and uncommitted changes{code}"


def _listed(values: Mapping[str, Any]) -> str:
    """ "jax 0.10.2, numpy 2.4.6"."""
    texts = {name: ", ".join(v) if isinstance(v, list | tuple) else str(v) for name, v in values.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    return found | {package: importlib.metadata.version(package) for package in PACKAGES}


def digest(tree: Any) -> str:
    """SHA-256 of paths, types, shapes and bytes of all arrays in a tree: equal only to the last bit."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(fetched(leaf))  # one by one, as all may be more than the host holds
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _digest_of_code() -> str:
    """The first twelve hex digits of a SHA-256 over the files of this package's source code."""
    package, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for kind in ("*.py", "*.cc", "*.h") for path in package.rglob(kind)):
        found.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit checked out in `folder`, and whether files differ from it; None without one.

    Where they do, a digest of the package's own files tells one state of the code from another.
    """

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(folder), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        state = {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
        return state | {"code": _digest_of_code()} if state["dirty"] else state
    except (OSError, subprocess.CalledProcessError):
        return None
