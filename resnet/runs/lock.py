"""One writer per run: a lock on its folder, which ends with the process that holds it."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from resnet.errors import InputError

FILE = "lock.json"
# What flock says where a file system has no locks, such as Lustre mounted without them.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class WorkdirHeld(InputError):
    """Another process writes to the workdir; the message names its host and pid."""


@contextlib.contextmanager
def holding(workdir: Path) -> Iterator[None]:
    """While entered, no other process may write to `workdir`, which is made if need be.

    The kernel's flock decides: it ends with its process, however that ends, so nothing stale is left
    to guess about; Linux carries it to other machines over NFS, as do GPFS, CephFS and Lustre with
    `-o flock`. The text in the file names the holder, and speaks alone where locks do not reach:
    between machines whose file system keeps them apart. Raises WorkdirHeld if another process holds
    the folder, and InputError if it cannot be written to.
    """
    made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file, locked = _open_locked(workdir)
    except OSError as error:
        raise InputError(f"cannot write to the workdir {str(workdir)!r}: {error.strerror}") from None
    try:
        _refuse_or_take_over(workdir, _holder(workdir), locked)
        _name_holder(file, workdir)
    except BaseException:
        os.close(file)
        raise
    try:
        yield
    finally:
        # Removed while it is still held, so that nobody's lock is removed but ours.
        with contextlib.suppress(OSError):
            (workdir / FILE).unlink()
            for folder in made:
                folder.rmdir()
        os.close(file)


def is_held(workdir: Path) -> bool:
    """Whether a process writes to the folder, as far as this machine can tell; nothing is locked for it."""
    holder = _holder(workdir)
    here = _myself()
    return bool(holder) and (not _same_machine(holder, here) or _alive(holder, here))


def _open_locked(workdir: Path) -> tuple[int, bool]:
    """(open lock file, whether the kernel locked it: not every file system can)."""
    path = workdir / FILE
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A holder that left in between has removed what was opened here.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file, True
            os.close(file)
        except BlockingIOError:
            os.close(file)
            raise WorkdirHeld(f"{workdir} is in use by {_described(_holder(workdir))}") from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file, False
            os.close(file)
            raise


def _refuse_or_take_over(workdir: Path, holder: dict[str, Any], locked: bool) -> None:
    """Raises WorkdirHeld unless the process that the text names is known to have ended."""
    if not holder:
        return
    here = _myself()
    restarted = holder["job"] and holder["job"] == here["job"] and holder["start"] < here["start"]
    if restarted or (_same_machine(holder, here) and (locked or not _alive(holder, here))):
        logging.warning("%s: taking over from %s, which is gone", workdir, _described(holder))
        return
    raise WorkdirHeld(
        f"{workdir} is in use by {_described(holder)}, as far as this machine can tell; "
        f"if that process is gone, remove {workdir / FILE}"
    )


def _name_holder(file: int, workdir: Path) -> None:
    """Writes this process into the lock file; InputError if the disk is too full for that."""
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, (json.dumps(_myself(), allow_nan=False) + "\n").encode(), 0)
    except OSError as error:
        raise InputError(f"cannot write to the workdir {str(workdir)!r}: {error.strerror}") from None


def _holder(workdir: Path) -> dict[str, Any]:
    """The content of the lock file; {} if it is empty or was not written by a process of ours."""
    try:
        holder = json.loads((workdir / FILE).read_bytes())
        return {name: type(own)(holder[name]) for name, own in _myself().items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _myself() -> dict[str, Any]:
    """This process: containers have names of their own, but share the kernel's boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "boot": boot.read_text("ascii").strip() if boot.exists() else "",
        # Slurm starts a job again only once it has ended, perhaps on another machine.
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "start": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _same_machine(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["host"] == b["host"] or bool(a["boot"] and a["boot"] == b["boot"])


def _alive(holder: dict[str, Any], here: dict[str, Any]) -> bool:
    """Tells whether the holder lives. A process from before a restart of this machine does not."""
    if holder["boot"] and here["boot"] and holder["boot"] != here["boot"]:
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
