"""Convolutions in C++ (convolution.cc) in place of XLA's on the CPU: compiled where they run, once.

The library is kept beside JAX's compiled programs, under a name that stands for its source, the compiler
and the processor. Where it cannot be compiled, a line of the log says why, and XLA's convolutions serve.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import subprocess
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax import Array

SOURCE = Path(__file__).with_name("convolution.cc")
TARGETS = ("forward", "input_gradient", "kernel_gradient")
# No -ffast-math, which assumes that there is no NaN.
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-shared", "-isystem", jax.ffi.include_dir())
# Channels of a result come in blocks of so many.
BLOCK = 16
_switch = {"on": True}


def use(on: bool) -> None:
    """Whether what this process traces from now on may contain native convolutions."""
    _switch["on"] = on


def in_use() -> bool:
    """Whether it does; compiles them at the first call."""
    return _switch["on"] and jax.default_backend() == "cpu" and _registered()


def call(target: str, a: Array, b: Array, shape: tuple[int, ...], stride: int, padding: int) -> Array:
    """The result, of the shape, of one of TARGETS; float32, the padding less than the size of the kernel."""
    function = jax.ffi.ffi_call(f"resnet_{target}", jax.ShapeDtypeStruct(shape, np.float32))
    return function(a, b, stride=np.int64(stride), padding=np.int64(padding))


@functools.cache
def _registered() -> bool:
    try:
        library = _library()
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().split("\n")
        reason = next((line for line in said if "error" in line), said[0])
        logging.warning("XLA's convolutions, which are slower, are used, for want of $CXX or c++: %s", reason)
        return False
    for target in TARGETS:
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
        path = folder / f"convolution_{_digest()}.so"
        if not path.exists():
            # Under a name of its own first: several processes may compile it at once.
            part = path.with_suffix(f".{os.getpid()}")
            stack.callback(part.unlink, missing_ok=True)
            _compiler(*FLAGS, str(SOURCE), "-o", str(part))
            part.replace(path)
        return ctypes.CDLL(str(path))


def _digest() -> str:
    """Stands for the source, jaxlib, the compiler and the instructions of this processor."""
    macros = _compiler(*FLAGS, "-dM", "-E", "-x", "c++", os.devnull)
    sources = (path.read_text() for path in sorted(SOURCE.parent.glob("*.[ch]*")))
    parts = (*sources, importlib.metadata.version("jaxlib"), " ".join(FLAGS), macros)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compiler(*arguments: str) -> str:
    command = (os.environ.get("CXX") or "c++", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
