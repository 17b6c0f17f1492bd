"""Native operations: as near to the exact ones as XLA's, alike on any number of threads, never forced."""

import ctypes
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_kernels_convolution import assert_close, operands, value_and_gradients

from resnet.kernels import native
from resnet.kernels.backend import by_xla_alone
from resnet.kernels.convolution import convolve, plain
from resnet.kernels.formulations import Window
from resnet.kernels.native import library
from tests.few import few

compiled = pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")


@pytest.mark.thorough
@compiled
@pytest.mark.parametrize(
    ("size", "stride", "inputs", "outputs", "extent"),
    (
        (3, 1, 16, 16, (17, 11)),  # narrow tiles, of all lengths
        (3, 1, 8, 8, (17, 11)),
        (3, 2, 8, 24, (9, 10)),
        (3, 1, 32, 64, (8, 8)),  # this and the next by Winograd's algorithm
        (3, 1, 288, 48, (9, 7)),
        (3, 2, 48, 32, (9, 10)),
        (3, 1, 288, 16, (3, 2)),  # more blocks than parts of the batch
        (5, 3, 24, 48, (8, 7)),  # a block that is not full; its gradient to x is XLA's
        (7, 2, 3, 64, (15, 16)),  # stems, of images of several rows or none in a band
        (3, 1, 1, 16, (17, 64)),
        (1, 1, 3, 8, (5, 4)),
        (3, 4, 16, 16, (9, 2)),  # pixels that no result meets
        (3, 1, 528, 256, (4, 4)),  # by parts of the channels
        (1, 2, 48, 32, (9, 10)),
        (1, 2, 144, 80, (9, 10)),  # its gradient to the kernel by parts of the pixels of all images
        (1, 1, 272, 256, (9, 10)),  # by bands of them
    ),
)
def test_as_near_to_the_exact_result_as_xla(size, stride, inputs, outputs, extent):
    x, kernel = operands(size, 1, inputs, outputs, extent, batch=18)
    window = (stride, size // 2, 1)
    ours, theirs = (value_and_gradients(f, x, kernel, *window) for f in (convolve, plain))
    with jax.enable_x64(True):
        wide = x.astype(np.float64), kernel.astype(np.float64)
        exact = jax.device_get(value_and_gradients(plain, *wide, *window))
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        error, known = (
            np.abs(np.asarray(array) - true).max() / np.abs(true).max() for array in (mine, other)
        )
        assert error <= 2 * known + 1e-6


@compiled
@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_what_is_not_finite_stays_visible(value):
    """Winograd's algorithm spreads it over the tiles that read it, and no further."""
    x, kernel = operands(inputs=32, outputs=32, extent=(20, 20), batch=2)
    x = x.at[1, 9, 10, 5].set(value)
    ours, theirs = (value_and_gradients(f, x, kernel, 1, 1, 1) for f in (convolve, plain))
    for mine, other in zip(ours, theirs, strict=True):
        assert not np.isfinite(mine)[~np.isfinite(other)].any()
    near = np.zeros(x.shape, bool)
    near[1, 6:13, 7:14] = True
    assert np.isfinite(ours[0])[~near].all()


@compiled
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("of_group", few(3, (1, 2, 4, 8, 16, 32)))
def test_groups(of_group, stride):
    """Native kernels take groups that fill blocks of 16 channels or hold blocks; chunks serve others."""
    channels = 64 if of_group == 32 else 32
    groups = channels // of_group
    x, kernel = operands(3, groups, channels, channels, (9, 10))
    arguments = (x, kernel, stride, 1, groups)
    assert_close(value_and_gradients(convolve, *arguments), value_and_gradients(plain, *arguments), 2e-6)
    text = jax.jit(value_and_gradients, static_argnums=(0, 3, 4, 5)).lower(convolve, *arguments).as_text()
    assert [f"resnet_{target}" in text for target in native.CONVOLUTIONS] == [True] * 3
    odd = operands(3, 8, 24, 24, (9, 10))  # three channels a group
    ours, theirs = (value_and_gradients(f, *odd, stride, 1, 8) for f in (convolve, plain))
    assert_close(ours, theirs, 2e-6)


@compiled
@pytest.mark.parametrize("of_group", (1, 2, 4, 8, 16))
def test_what_is_not_finite_stays_in_its_group(of_group):
    x, kernel = operands(3, 32 // of_group, 32, 32, (9, 10))
    ours = value_and_gradients(convolve, x.at[..., 20].set(np.nan), kernel, 1, 1, 32 // of_group)
    first = 20 // of_group * of_group
    others = np.delete(np.arange(32), range(first, first + of_group))
    y, to_x, to_kernel = map(np.asarray, ours)
    assert np.isfinite(to_x).all() and np.isnan(y[..., first]).all()
    if of_group < 4:  # else a block may hold other groups, on processors with short vectors
        assert np.isfinite(y[..., others]).all() and np.isfinite(to_kernel[..., others]).all()


@compiled
def test_bands_of_rows():
    """An image too large for the caches is packed in several parts."""
    x, kernel = operands(inputs=32, outputs=16, extent=(70, 64), batch=1)
    for mine, other in zip(
        *(value_and_gradients(f, x, kernel, 2, 1, 1) for f in (convolve, plain)), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=0, atol=2e-6 * np.abs(other).max())


def program(x, kernel):
    """Traced anew: what JAX has traced once it takes from its memory."""

    def value_and_gradients(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, 1, kernel.shape[0] // 2, 1), x, kernel)
        return y, pull(y)

    return jax.jit(value_and_gradients).lower(x, kernel).as_text()


@compiled
def test_where_they_serve():
    x, kernel = operands(inputs=16, outputs=16)
    assert all(f"resnet_{target}" in program(x, kernel) for target in native.CONVOLUTIONS)
    assert "resnet_" not in program(*operands(inputs=16, outputs=4)).replace("resnet_input_gradient", "")
    few = program(*operands(inputs=8, outputs=8))
    assert [f"resnet_{target}" in few for target in native.CONVOLUTIONS] == [True] * 3
    assert "resnet_" not in program(x.astype("bfloat16"), kernel.astype("bfloat16"))
    with by_xla_alone():
        assert "resnet_" not in program(x, kernel)
    native.use(False)
    try:
        assert "resnet_" not in program(x, kernel)
    finally:
        native.use(True)


THREADS = """
import os, sys
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:int(sys.argv[1])]))
sys.path[:0] = ["tests"]
import jax, numpy as np
from test_kernels_convolution import assert_close, operands, value_and_gradients
from resnet.kernels.convolution import convolve
from resnet.kernels.moments import moments, projections
for stride, outputs in ((1, 16), (1, 32), (2, 16)):
    x, kernel = operands(inputs=32, outputs=outputs, extent=(20, 20), batch=18)
    for array in value_and_gradients(convolve, x, kernel, stride, 1, 1):
        print(np.asarray(array).tobytes().hex()[:4096], float(np.abs(array).sum()))
for array in (*moments(x, x[0, 0, 0]), *projections(x, x, x[0, 0, 0])):
    print(np.asarray(array).tobytes().hex())
"""


@pytest.mark.thorough
@compiled
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to processors")
def test_the_number_of_threads_decides_nothing():
    run = functools.partial(subprocess.check_output, cwd=Path(__file__).parents[1], timeout=300)
    one, all_of_them = (run([sys.executable, "-c", THREADS, n]) for n in ("1", "99"))
    assert one == all_of_them and one.count(b"\n") == 13


THROWS = """
#include <stdexcept>
#include <thread>
#include "threads.h"
ffi::Error throws(ffi::ThreadPool pool, ffi::BufferR1<ffi::F32> x, ffi::Result<ffi::BufferR1<ffi::F32>> y) {
  return guarded([&] {
    const auto caller = std::this_thread::get_id();
    share(pool, 100, [&](int64_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (std::this_thread::get_id() != caller) throw std::runtime_error("thrown on a thread of the pool");
    });
    return ffi::Error::Success();
  });
}
using Vector1 = ffi::BufferR1<ffi::F32>;
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_throws, throws,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Vector1>().Ret<Vector1>());
"""


@pytest.mark.thorough
@compiled
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor has no second thread")
def test_an_exception_on_a_thread_of_the_pool_is_an_error(tmp_path):
    """It does not end the process, and the next call is served."""
    (tmp_path / "throws.cc").write_text(THROWS)
    path = str(tmp_path / "throws.so")
    flags = [flag for flag in library.FLAGS if flag != "-O3"]
    library._compiler(
        *flags, *library.INCLUDE, "-I", str(library.SOURCES), str(tmp_path / "throws.cc"), "-o", path
    )
    handler = jax.ffi.pycapsule(ctypes.CDLL(path).resnet_throws)
    jax.ffi.register_ffi_target("resnet_throws", handler, platform="cpu")
    x = jnp.ones(1)
    for _ in range(2):
        with pytest.raises(jax.errors.JaxRuntimeError, match="thrown on a thread of the pool"):
            jax.block_until_ready(jax.ffi.ffi_call("resnet_throws", jax.ShapeDtypeStruct((1,), x.dtype))(x))


def exact(x, kernel, g, stride, padding):
    """Convolution, and from g to its result the gradients to x and to the kernel, in double."""
    sides = (padding, padding)
    padded = np.pad(x.astype(np.float64), ((0, 0), sides, sides, (0, 0)))
    to_padded, to_kernel, y = np.zeros(padded.shape), np.zeros(kernel.shape), np.zeros(g.shape)
    for i, j in np.ndindex(kernel.shape[:2]):
        rows, columns = (slice(n, n + stride * m, stride) for n, m in zip((i, j), g.shape[1:3], strict=True))
        seen = padded[:, rows, columns][:, : g.shape[1], : g.shape[2]]
        y += seen @ kernel[i, j].astype(np.float64)
        to_kernel[i, j] = np.einsum("byxi,byxo->io", seen, g)
        to_padded[:, rows, columns][:, : g.shape[1], : g.shape[2]] += g @ kernel[i, j].T.astype(np.float64)
    return y, to_padded[:, padding : padding + x.shape[1], padding : padding + x.shape[2]], to_kernel


@compiled
@pytest.mark.parametrize("seed", few(2, range(6)))
def test_small_shapes_drawn_at_random(seed):
    assert native.in_use(native.CHANNELS), "kernels of 8 channels are compiled when they are asked for"
    draw = np.random.default_rng(seed)
    size, stride = int(draw.integers(1, 6)), int(draw.integers(1, 4))
    padding = int(draw.integers(size))
    extent = draw.integers(max(1, size - 2 * padding), 9, 2)
    results = (extent + 2 * padding - size) // stride + 1
    free, blocks = int(draw.integers(1, 40)), 8 * int(draw.integers(1, 6))
    images = int(draw.integers(1, 4))
    for inputs, outputs in ((free, blocks), (blocks, free)):
        shapes = (images, *extent), (size, size), (images, *results)
        channels = (inputs,), (inputs, outputs), (outputs,)
        x, kernel, g = (
            draw.normal(size=(*a, *b)).astype(np.float32) for a, b in zip(shapes, channels, strict=True)
        )
        y, to_x, to_kernel = exact(x, kernel, g, stride, padding)
        for target, a, b, result, wide in (
            ("forward", x, kernel, y, outputs),
            ("input_gradient", g, kernel, to_x, inputs),
            ("kernel_gradient", x, g, to_kernel, outputs),
        ):
            if wide == blocks:
                window = Window(size, stride, padding, 1, extent)
                found = getattr(native, f"run_{target}")(*map(jnp.asarray, (a, b)), result.shape, window)
                np.testing.assert_allclose(found, result, rtol=0, atol=1e-5 * np.abs(result).max())
