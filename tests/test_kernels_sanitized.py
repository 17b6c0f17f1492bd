"""The native kernels, called as XLA calls them with shapes drawn at random, under sanitizers."""

import subprocess
from pathlib import Path

import jax
import pytest

from resnet.kernels import native
from resnet.kernels.native import library

DRIVER = Path(__file__).parent / "kernels_fuzz.cc"
# By floats in a register: as many as this processor has, 8 and 4.
ARCHITECTURES = ("native", "x86-64-v3", "x86-64")
ILLEGAL_INSTRUCTION = -4


@pytest.mark.slow
@pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")
@pytest.mark.parametrize(
    ("sanitizer", "architecture"),
    [("address,undefined", architecture) for architecture in ARCHITECTURES] + [("thread", "native")],
)
def test_no_fault_in_random_shapes(sanitizer, architecture, tmp_path):
    """No read or write out of bounds, no undefined behaviour, no data race; sums near to those in double."""
    flags = (
        "-std=c++20",
        "-O1",
        "-g",
        f"-march={architecture}",
        "-isystem",
        jax.ffi.include_dir(),
        "-pthread",
    )
    sanitized = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-o", str(tmp_path / "fuzz"))
    sources = (*sorted(library.SOURCES.glob("*.cc")), DRIVER)
    subprocess.run([*library._command(), *flags, *sanitized, *map(str, sources)], check=True)
    for seed in range(5):
        done = subprocess.run([tmp_path / "fuzz", str(seed), "200"], capture_output=True, text=True)
        if done.returncode == ILLEGAL_INSTRUCTION:
            pytest.skip(f"this processor is no {architecture}")
        assert done.returncode == 0, done.stdout + done.stderr
