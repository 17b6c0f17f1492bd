"""Convolutions and sums over channels in C++ in place of XLA's on the CPU: compiled where they run, once.

Where the compiler fails, a line of the log says why, and XLA's operations are used.
"""

import ctypes
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
TARGETS = tuple(f"resnet_{name}" for name in (*CONVOLUTIONS, *SUMS))
# Channels of a result, or of what is summed, come in multiples of so many, or of as many as a vector holds.
CHANNELS = 8
# Channels that are computed together where they are in groups.
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
        return bool(_registered())


def serves(channels: int) -> bool:
    """Whether native operations write images of so many channels, and read such images through a norm."""
    return in_use() and channels % _registered() == 0


def allowed_in_exports() -> list[Any]:
    """Checks of jax.export to disable (`disabled_checks`), so that it accepts calls of our kernels.

    On a CPU, the process that loads such a program calls `in_use` first, which registers them.
    """
    return [jax.export.DisabledSafetyCheck.custom_call(name) for name in TARGETS]


# What is done to each channel of an array: a scale and an offset.
_Affine = tuple[Array, Array]


def run_forward(
    x: Array,
    kernel: Array,
    shape: tuple[int, ...],
    window: Any,
    *,
    before: _Affine | None = None,
    after: _Affine | None = None,
    shortcut: Array | None = None,
    relu: bool = False,
) -> Array:
    """Computes a convolution. `shape` is that of its result, `window` a Window of formulations.py.

    With `before`, relu(x * scale + offset) takes the place of x; `serves` must hold for its channels. With
    `after`, the result is convolution * scale + offset, plus the shortcut if there is one, and the ReLU of
    that if `relu`.
    """
    shortcut = jnp.zeros((0, 0, 0, 0)) if shortcut is None else shortcut
    arrays = (x, kernel, *_affine(before), *_affine(after), shortcut)
    return _call("forward", arrays, shape, window, relu=relu)


def run_input_gradient(g: Array, kernel: Array, shape: tuple[int, ...], window: Any) -> Array:
    """Computes the gradient to the input of a convolution from the gradient g to its result."""
    return _call("input_gradient", (g, kernel), shape, window)


def run_kernel_gradient(
    x: Array, g: Array, shape: tuple[int, ...], window: Any, *, before: _Affine | None = None
) -> Array:
    """Computes the gradient to the kernel of a convolution from x and the gradient g to its result.

    With `before`, relu(x * scale + offset) takes the place of x, as in run_forward.
    """
    return _call("kernel_gradient", (x, g, *_affine(before)), shape, window)


def _affine(affine: _Affine | None) -> _Affine:
    """The affine as native code takes it, which reads arrays of no channels as none."""
    return affine or (jnp.zeros(0), jnp.zeros(0))


def _call(target: str, arrays: Sequence[Array], shape: tuple[int, ...], window: Any, **flags: bool) -> Array:
    function = jax.ffi.ffi_call(f"resnet_{target}", jax.ShapeDtypeStruct(shape, np.float32))
    attributes = {name: np.int64(getattr(window, name)) for name in ("stride", "padding", "groups")}
    return function(*arrays, **attributes, **flags)


def sums(target: str, *arrays: Array) -> tuple[Array, Array]:
    """Calls one of SUMS on arrays […, rows, c] and […, c]; returns two sums […, c]."""
    *mapped, _, channels = arrays[0].shape
    result = jax.ShapeDtypeStruct((*mapped, channels), np.float32)
    first, second = jax.ffi.ffi_call(f"resnet_{target}", (result, result))(*arrays)
    return first, second


@functools.cache
def _registered() -> int:
    """Compiles the library, registers its functions with XLA, and returns what divides their channels.

    Returns 0, with a warning, if that fails.
    """
    try:
        loaded = library.load_library()
        handlers = {name: jax.ffi.pycapsule(getattr(loaded, name)) for name in TARGETS}
        channels = ctypes.c_int32.in_dll(loaded, "resnet_channels").value
        for name, handler in handlers.items():
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
    except Exception as error:
        reason = library.printable(error)
        logging.warning("XLA's operations, which are slower, serve instead of native kernels: %s", reason)
        return 0
    return channels
