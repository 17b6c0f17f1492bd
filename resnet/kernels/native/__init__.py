"""Convolutions and sums over channels in C++ in place of XLA's on the CPU: compiled where they run, once.

The library is kept beside JAX's compiled programs, under a name that stands for its source, the compiler
and the processor. Where it cannot be compiled, a line of the log says why, and XLA's operations serve.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax import Array

FOLDER = Path(__file__).parent
CONVOLUTIONS = ("forward", "input_gradient", "kernel_gradient")
SUMS = ("moments", "projections")
# No -ffast-math, which assumes that there is no NaN.
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-shared", "-isystem", jax.ffi.include_dir())
# Channels of a result, or of what is summed, come in blocks of so many.
BLOCK = 16
_switch = {"on": True}


def use(on: bool) -> None:
    """Whether what this process traces from now on may contain native operations."""
    _switch["on"] = on


def in_use() -> bool:
    """Whether it does; compiles them at the first call."""
    return _switch["on"] and jax.default_backend() == "cpu" and _registered()


def convolve(target: str, a: Array, b: Array, shape: tuple[int, ...], stride: int, padding: int) -> Array:
    """The result, of the shape, of one of CONVOLUTIONS; the padding is less than the size of the kernel."""
    function = jax.ffi.ffi_call(f"resnet_{target}", jax.ShapeDtypeStruct(shape, np.float32))
    return function(a, b, stride=np.int64(stride), padding=np.int64(padding))


def sums(target: str, *arrays: Array) -> Sequence[Array]:
    """The two results, [c], of one of SUMS, of arrays [rows, c] and [c]; under `vmap` for all at once."""
    result = jax.ShapeDtypeStruct(arrays[0].shape[1:], np.float32)
    return jax.ffi.ffi_call(f"resnet_{target}", (result, result), vmap_method="broadcast_all")(*arrays)


@functools.cache
def _registered() -> bool:
    try:
        library = _library()
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().split("\n")
        reason = next((line for line in said if "error" in line), said[0])
        logging.warning("XLA's operations, which are slower, are used, for want of $CXX or c++: %s", reason)
        return False
    for target in CONVOLUTIONS + SUMS:
        handler = jax.ffi.pycapsule(getattr(library, f"resnet_{target}"))
        jax.ffi.register_ffi_target(f"resnet_{target}", handler, platform="cpu")
    return True


def _library() -> ctypes.CDLL:
    """OSError or SubprocessError where it is not there and cannot be compiled."""
    kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        if kept and "://" not in kept:
            folder = Path(kept) / "native"
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / f"{_digest()}.so"
        if not path.exists():
            # Under a name of its own first: several processes may compile it at once.
            part = path.with_suffix(f".{os.getpid()}")
            stack.callback(part.unlink, missing_ok=True)
            _compiler(*FLAGS, *map(str, sorted(FOLDER.glob("*.cc"))), "-o", str(part))
            part.replace(path)
        return ctypes.CDLL(str(path))


def _digest() -> str:
    """Stands for the source, jaxlib, the compiler and the instructions of this processor."""
    macros = _compiler(*FLAGS, "-dM", "-E", "-x", "c++", os.devnull)
    sources = (path.read_text() for path in sorted(FOLDER.glob("*.[ch]*")))
    parts = (*sources, importlib.metadata.version("jaxlib"), " ".join(FLAGS), macros)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compiler(*arguments: str) -> str:
    command = (os.environ.get("CXX") or "c++", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
