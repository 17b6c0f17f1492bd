"""Convolutions and sums over channels in C++ in place of XLA's on the CPU: compiled where they run, once.

Where the compiler fails, a line of the log says why, and XLA's operations are used.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import Array

from resnet.kernels.native import library

CONVOLUTIONS = ("forward", "input_gradient", "kernel_gradient")
SUMS = ("moments", "projections")
TARGETS = tuple(f"resnet_{name}" for name in (*CONVOLUTIONS, "affine", *SUMS))
# Channels of a result, or of what is summed, come in blocks of so many.
BLOCK = 16
_switch = {"on": True}
_registering = threading.Lock()


def use(on: bool) -> None:
    """Allows or forbids native operations in whatever this process lowers from now on."""
    _switch["on"] = on


def in_use() -> bool:
    """Whether native operations are allowed and available; the first call compiles and registers them.

    To be called only for programs of the CPU.
    """
    if not _switch["on"]:
        return False
    with _registering:  # The cache alone would let a second thread compile and register as well.
        return _registered()


def allowed_in_exports() -> list[Any]:
    """Checks of jax.export to disable (`disabled_checks`), so that it accepts calls of our kernels.

    On a CPU, the process that loads such a program calls `in_use` first, which registers them.
    """
    return [jax.export.DisabledSafetyCheck.custom_call(name) for name in TARGETS]


def run_convolution(target: str, a: Array, b: Array, shape: tuple[int, ...], window: Any) -> Array:
    """Calls one of CONVOLUTIONS, whose result has the `shape`, for a window of formulations.py."""
    function = jax.ffi.ffi_call(f"resnet_{target}", jax.ShapeDtypeStruct(shape, np.float32))
    return function(a, b, **_attributes(window))


def run_affine(arrays: Sequence[Array], shape: tuple[int, ...], window: Any, relu: bool) -> Array:
    """Computes scale * convolution + offset + shortcut, and the ReLU of it if `relu`.

    `arrays` are x, kernel, scale, offset, and the shortcut if there is one.
    """
    function = jax.ffi.ffi_call("resnet_affine", jax.ShapeDtypeStruct(shape, np.float32))
    arrays = arrays if len(arrays) == 5 else (*arrays, jnp.zeros((0, 0, 0, 0)))
    return function(*arrays, **_attributes(window), relu=relu)


def _attributes(window: Any) -> dict[str, Any]:
    return {name: np.int64(getattr(window, name)) for name in ("stride", "padding", "groups")}


def sums(target: str, *arrays: Array) -> tuple[Array, Array]:
    """Calls one of SUMS on arrays […, rows, c] and […, c]; returns two sums […, c]."""
    *mapped, _, channels = arrays[0].shape
    result = jax.ShapeDtypeStruct((*mapped, channels), np.float32)
    first, second = jax.ffi.ffi_call(f"resnet_{target}", (result, result))(*arrays)
    return first, second


@functools.cache
def _registered() -> bool:
    """Compiles the library and registers its functions with XLA; False, with a warning, if that fails."""
    try:
        loaded = library.load_library()
        handlers = {name: jax.ffi.pycapsule(getattr(loaded, name)) for name in TARGETS}
        for name, handler in handlers.items():
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
    except Exception as error:
        reason = library.printable(error)
        logging.warning("XLA's operations, which are slower, serve instead of native kernels: %s", reason)
        return False
    return True
