"""Operations in C++ in place of XLA's on the CPU: compiled where they run, once.

They are convolutions, sums for each channel over images and pixels, and passes over images between them.

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
PASSES = ("combination", "masked_sum")
SYMBOLS = tuple(f"resnet_{name}" for name in (*CONVOLUTIONS, *SUMS, *PASSES))
# Channels of a result, or of what is summed, come in multiples of so many.
CHANNELS = 8
# Channels that fill a vector of any processor, and are computed together where they are in groups.
BLOCK = 16
# Behind the names of functions that take channels in multiples of CHANNELS, and not of BLOCK.
NARROW = "_narrow"
_switch = {"on": True}
_registering = threading.Lock()


def use(on: bool) -> None:
    """Allows or forbids native operations in whatever this process lowers from now on."""
    _switch["on"] = on


def in_use(channels: int = BLOCK) -> bool:
    """Whether native operations are allowed, and available for so many channels.

    The first call compiles and registers them. To be called only for programs of the CPU.
    """
    if not _switch["on"]:
        return False
    with _registering:  # The cache alone would let a second thread compile and register as well.
        return _registered(_suffix(channels)) is not None


def serves(channels: int) -> bool:
    """Whether native operations write images of so many channels, and read such images through a norm."""
    return channels > 0 and channels % CHANNELS == 0 and in_use(channels)


def allowed_in_exports() -> list[Any]:
    """Checks of jax.export to disable (`disabled_checks`), so that it accepts calls of our kernels.

    On a CPU, the process that loads such a program calls `in_use` first for the channels that it has.
    """
    names = [symbol + suffix for symbol in SYMBOLS for suffix in ("", NARROW)]
    return [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]


# What is done to each channel of an array: a scale and an offset, [c], or [k, c] where each of k equal parts
# of the images has its own.
_Affine = Sequence[Array]


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
    shortcut = jnp.zeros((0, 0, 0, 0), np.float32) if shortcut is None else shortcut
    arrays = (x, kernel, *affine(before), *affine(after), shortcut)
    return _call("forward", arrays, shape, window, reads=before, relu=relu)


def run_input_gradient(g: Array, kernel: Array, shape: tuple[int, ...], window: Any) -> Array:
    """Computes the gradient to the input of a convolution from the gradient g to its result."""
    return _call("input_gradient", (g, kernel), shape, window)


def run_kernel_gradient(
    x: Array, g: Array, shape: tuple[int, ...], window: Any, *, before: _Affine | None = None
) -> Array:
    """Computes the gradient to the kernel of a convolution from x and the gradient g to its result.

    With `before`, relu(x * scale + offset) takes the place of x, as in run_forward.
    """
    return _call("kernel_gradient", (x, g, *affine(before)), shape, window, reads=before)


def affine(given: _Affine | None) -> Sequence[Array]:
    """Scale and offset as [k, c]; without any, two empty arrays, which native code takes for none."""
    return [rows(each) for each in given] if given else [jnp.zeros((0, 0), np.float32)] * 2


def rows(values: Array) -> Array:
    """Values of channels as rows: [c] becomes [1, c], and [k, c] stays as it is."""
    return values.reshape(-1, values.shape[-1])


def _call(
    target: str,
    arrays: Sequence[Array],
    shape: tuple[int, ...],
    window: Any,
    reads: _Affine | None = None,
    **flags: bool,
) -> Array:
    """Calls one of CONVOLUTIONS. Its name follows from the channels of the result and of what it `reads`."""
    name = _name(target, shape[-1], *(each.shape[-1] for each in reads or ()))
    attributes = {field: np.int64(getattr(window, field)) for field in ("stride", "padding", "groups")}
    function = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(shape, np.float32))
    return function(*arrays, **attributes, **flags)


def sums(target: str, *arrays: Array) -> tuple[Array, Array]:
    """Calls one of SUMS on arrays […, rows, c] and […, c]; returns two sums […, c]."""
    *mapped, _, channels = arrays[0].shape
    result = jax.ShapeDtypeStruct((*mapped, channels), np.float32)
    first, second = jax.ffi.ffi_call(_name(target, channels), (result, result))(*arrays)
    return first, second


def run_pass(target: str, *arrays: Array, **flags: bool) -> Array:
    """Calls one of PASSES; returns images of the shape of the first of the arrays."""
    result = jax.ShapeDtypeStruct(arrays[0].shape, np.float32)
    return jax.ffi.ffi_call(_name(target, arrays[0].shape[-1]), result)(*arrays, **flags)


def _name(target: str, *channels: int) -> str:
    """The name that XLA knows a function by which takes so many channels, here and in exported programs."""
    return f"resnet_{target}" + _suffix(*channels)


def _suffix(*channels: int) -> str:
    return NARROW if any(number % BLOCK for number in channels) else ""


@functools.cache
def _registered(suffix: str) -> ctypes.CDLL | None:
    """Compiles the library and registers its functions with XLA; None, with a warning, if that fails.

    Where vectors hold 16 floats, the functions for few channels are compiled once more, with vectors of 8;
    elsewhere they are the same functions.
    """
    wide = _registered("") if suffix else None
    if suffix and wide is None:
        return None
    try:
        loaded = wide or library.load_library()
        if suffix and CHANNELS % ctypes.c_int32.in_dll(loaded, "resnet_channels").value:
            loaded = library.load_library("-DRESNET_NARROW")
        for symbol in SYMBOLS:
            handler = jax.ffi.pycapsule(getattr(loaded, symbol))
            jax.ffi.register_ffi_target(symbol + suffix, handler, platform="cpu")
    except Exception as error:
        reason = library.printable(error)
        logging.warning("XLA's operations, which are slower, serve instead of native kernels: %s", reason)
        return None
    return loaded
