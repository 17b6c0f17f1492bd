"""Native operations: as near to the exact ones as XLA's, alike on any number of threads, never forced."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from test_models_convolution import operands, value_and_gradients

from resnet.kernels import native
from resnet.kernels.convolution import by_xla_alone, convolve, plain

compiled = pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")


@compiled
@pytest.mark.parametrize(
    ("size", "stride", "inputs", "outputs", "extent"),
    (
        (3, 1, 16, 16, (17, 11)),  # narrow tiles, of all lengths
        (3, 1, 32, 64, (8, 8)),
        (3, 2, 48, 32, (9, 10)),
        (3, 1, 288, 16, (3, 2)),  # more blocks than parts of the batch
        (5, 3, 24, 48, (8, 7)),  # a block that is not full; its gradient to x is XLA's
        (7, 2, 3, 64, (15, 16)),
        (3, 4, 16, 16, (9, 2)),  # pixels that no result meets
        (1, 2, 48, 32, (9, 10)),
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
def test_few_pixels_of_many_channels_are_a_matrix_product():
    """Of the three of a 1x1 convolution only the gradient to the kernel is ever our own."""
    kernel = jax.numpy.ones((1, 1, 32, 32))
    for side, ours in ((15, False), (16, True)):
        text = program(jax.numpy.ones((1, side, side, 32)), kernel)
        assert [f"resnet_{target}" in text for target in native.CONVOLUTIONS] == [False, False, ours]


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
    assert "resnet_" not in program(*operands(inputs=16, outputs=8)).replace("resnet_input_gradient", "")
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
from test_models_convolution import operands, value_and_gradients
from resnet.kernels.convolution import convolve
from resnet.kernels.moments import moments, projections
for stride in (1, 2):
    x, kernel = operands(inputs=32, outputs=16, extent=(20, 20), batch=18)
    for array in value_and_gradients(convolve, x, kernel, stride, 1, 1):
        print(np.asarray(array).tobytes().hex()[:4096], float(np.abs(array).sum()))
for array in (*moments(x), *projections(x, x, x[0, 0, 0])):
    print(np.asarray(array).tobytes().hex())
"""


@compiled
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to processors")
def test_the_number_of_threads_decides_nothing():
    run = functools.partial(subprocess.check_output, cwd=Path(__file__).parents[1], timeout=300)
    one, all_of_them = (run([sys.executable, "-c", THREADS, n]) for n in ("1", "99"))
    assert one == all_of_them and one.count(b"\n") == 10


def test_without_a_compiler_xla_serves(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    (tmp_path / "convolution.cc").write_text("neither C nor C++")
    for compiler, said in (("/nowhere/c++", "/nowhere/c++"), ("c++", "error: ")):
        monkeypatch.setenv("CXX", compiler)
        assert not native._registered.__wrapped__()
        assert "XLA's operations, which are slower, are used" in caplog.text and said in caplog.text
