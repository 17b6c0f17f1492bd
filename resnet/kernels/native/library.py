"""Loads the library of native kernels, which is compiled once for this processor and kept on disk.

A kept library lies in a folder of this user as `<build>-<checksum>.so`: a hash of what it was compiled from,
and one of its bytes. A damaged library is noticed before it is loaded, and is compiled again.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import filelock
import jax
from absl import logging

from resnet.errors import InputError
from resnet.files import USER_CACHE, local_path, sync

SOURCES = Path(__file__).parent
# No -ffast-math, which assumes that there is no NaN.
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-shared")
INCLUDE = ("-isystem", jax.ffi.include_dir())
COMPILE_SECONDS = 300  # for all sources, side by side, and as many to link them
# Who waits for another process to compile waits a little longer than that one may take.
LOCK_SECONDS = 2 * COMPILE_SECONDS + 30
UNUSED_DAYS = 30  # A library that no process has loaded for so long is removed when another is compiled.
# Bytes that a compiler may write on its way. A folder without room for them is not the compiler's fault.
SCRATCH = 4 << 20
PART = ".part"
# Where libraries are kept that lie beside no programs of JAX's.
_beside_none = {"folder": USER_CACHE}


class CompilerError(Exception):
    """The compiler cannot be run, or does not compile the kernels; its text is the reason in one line."""


def load_library(*definitions: str) -> ctypes.CDLL:
    """Loads the kept library, or compiles it. Raises CompilerError or OSError if both fail.

    `definitions` are flags of the compiler such as -DNAME, each set of which makes a library of its own.
    """
    path, refused, flags = None, None, FLAGS + definitions
    try:
        folder = _folder()
        path = _kept(folder, flags) if folder else None
    except (OSError, NotImplementedError, InputError) as error:  # the second: no locks on this file system
        logging.warning("Native kernels are compiled anew, as none can be kept: %s", printable(error))
    try:
        if path:
            return ctypes.CDLL(str(path))
    except OSError as error:  # such as a file system that nothing is executed from
        refused = error
    with tempfile.TemporaryDirectory(prefix="resnet_native_", ignore_cleanup_errors=True) as temporary:
        if not path:
            return ctypes.CDLL(str(_compiled(Path(temporary), flags)))
        copy = ctypes.CDLL(shutil.copy(path, temporary))
        logging.warning("Native kernels are loaded from a temporary folder: %s", printable(refused))
        return copy


def printable(reason: object) -> str:
    """One line of text without what cannot be encoded: the names of files may hold any bytes."""
    text = str(reason).strip() or type(reason).__name__
    return text.splitlines()[0].encode("utf-8", "backslashreplace").decode()


def keep_in(folder: str) -> None:
    """Where libraries are kept in a process whose JAX keeps no programs; empty: nowhere."""
    _beside_none["folder"] = folder


def _folder() -> Path | None:
    """The user's folder of kept libraries; None where none are to be kept, or JAX has a remote cache."""
    kept = jax.config.jax_compilation_cache_dir or _beside_none["folder"]  # type: ignore[attr-defined]
    return local_path(kept).absolute() / f"native-{os.geteuid()}" if kept and "://" not in kept else None


def _kept(folder: Path, flags: Sequence[str]) -> Path:
    """A sound library in the folder, compiled if there is none; OSError if the folder cannot be used."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _private(folder.lstat(), stat.S_ISDIR):
        raise PermissionError(f"{folder} must be a folder of this user in which nobody else may write")
    build = _build(flags)
    path = _sound(folder, build)
    if path:
        with contextlib.suppress(OSError):  # a folder that can only be read
            os.utime(path)
        return path
    with filelock.FileLock(folder / "lock", timeout=LOCK_SECONDS):
        # The first was compiled by who held the lock before.
        return _sound(folder, build) or _renewed(folder, build, flags)


def _renewed(folder: Path, build: str, flags: Sequence[str]) -> Path:
    """Compiles the library into the folder and removes what is of no use; the caller holds the lock."""
    for left in folder.glob(f"*{PART}"):  # by compiles that were killed
        shutil.rmtree(left, ignore_errors=True)
    for path in folder.glob(f"{build}-*.so"):
        logging.warning(
            "Native kernels are compiled again: %s is damaged, or others may write to it", printable(path)
        )
        path.unlink()
    for path in folder.glob("*.so"):
        if path.lstat().st_mtime < time.time() - UNUSED_DAYS * 24 * 3600:
            path.unlink()
    with tempfile.TemporaryDirectory(PART, dir=folder, ignore_cleanup_errors=True) as scratch:
        room = Path(scratch) / "room"
        room.write_bytes(bytes(SCRATCH))
        sync(room)
        room.unlink()
        library = _compiled(Path(scratch), flags)
        library.chmod(0o600)
        sync(library)
        path = library.replace(folder / _name(build, library.read_bytes()))
    sync(folder)
    return path


def _private(status: os.stat_result, of_kind) -> bool:
    """Whether a path is of the given kind, belongs to this user and is writable for nobody else."""
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return of_kind(status.st_mode) and status.st_uid == os.geteuid() and not others


def _sound(folder: Path, build: str) -> Path | None:
    """The kept library, if its checksum is that in its name."""
    for path in folder.glob(f"{build}-*.so"):
        if _private(path.lstat(), stat.S_ISREG) and path.name == _name(build, path.read_bytes()):
            return path
    return None


def _name(build: str, content: bytes) -> str:
    return f"{build}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _compiled(folder: Path, flags: Sequence[str]) -> Path:
    """Compiles the sources in parallel, and links them to a library in the folder."""
    path, sources = folder / "native.so", sorted(SOURCES.glob("*.cc"))
    objects = [str(folder / f"{source.stem}.o") for source in sources]
    jobs = [
        (*flags, *INCLUDE, "-c", str(source), "-o", each)
        for source, each in zip(sources, objects, strict=True)
    ]
    _compilers(jobs, scratch=folder)
    _compiler(*flags, *objects, "-o", str(path), scratch=folder)
    if not path.is_file():
        raise CompilerError(f"{_command()[0]} wrote no library")
    return path


def _build(flags: Sequence[str]) -> str:
    """A hash of the flags, the source, jaxlib, the compiler and the instruction set of this processor."""
    macros = _compiler(*flags, "-dM", "-E", "-x", "c++", os.devnull)
    sources = (path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]*")))
    texts = (importlib.metadata.version("jaxlib"), *_command(), *flags)
    parts = (*sources, *(os.fsencode(text) for text in texts), macros)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _command() -> list[str]:
    """$CXX as a shell splits it, such as `ccache g++` or `g++ -m64`."""
    try:
        return shlex.split(os.environ.get("CXX", "")) or ["c++"]
    except ValueError as error:
        raise CompilerError(f"$CXX: {error}") from None


def _compiler(*arguments: str, scratch: Path | None = None) -> bytes:
    """Runs the compiler and returns what it prints; `scratch` is its folder for temporary files."""
    return _compilers([arguments], scratch)[0]


def _compilers(jobs: Sequence[Sequence[str]], scratch: Path | None = None) -> list[bytes]:
    """Runs the compiler once for each list of arguments, side by side, and returns what each prints."""
    environment = os.environ | {"LC_ALL": "C"} | ({"TMPDIR": str(scratch)} if scratch else {})
    processes, deadline = [], time.monotonic() + COMPILE_SECONDS
    try:
        for arguments in jobs:
            process = subprocess.Popen(
                (*_command(), *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=environment, start_new_session=True,
            )  # fmt: skip
            processes.append(process)
        return [_output(process, deadline) for process in processes]
    except BaseException as error:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # ended
                os.killpg(process.pid, signal.SIGKILL)  # and what it started, which a driver would leave
            process.communicate()
        if isinstance(error, OSError):
            raise CompilerError(f"$CXX or c++ cannot be run: {error}") from error
        if isinstance(error, subprocess.TimeoutExpired):
            raise CompilerError(f"{_command()[0]} did not end in {COMPILE_SECONDS} seconds") from error
        raise


def _output(process: subprocess.Popen, deadline: float) -> bytes:
    """What the process printed when it has ended well; CompilerError with what it said otherwise."""
    output, errors = process.communicate(timeout=max(0, deadline - time.monotonic()))
    if process.returncode:
        said = errors.decode("utf-8", "backslashreplace").strip().splitlines()
        said += [f"{_command()[0]} ended with {process.returncode}"]
        raise CompilerError(next((line for line in said if "error" in line), said[0]))
    return output
