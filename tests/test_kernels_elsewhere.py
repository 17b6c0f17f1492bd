"""The native kernels on processors that this machine has not: they compile."""

import shutil
import subprocess

import pytest

from resnet.kernels.native import library

COMPILER = "aarch64-linux-gnu-g++"  # Debian's package g++-aarch64-linux-gnu
FLAGS = [flag for flag in library.FLAGS if flag != "-march=native"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"{COMPILER} is not installed")
@pytest.mark.parametrize("source", sorted(library.SOURCES.glob("*.cc")), ids=lambda path: path.name)
def test_the_kernels_compile_for_aarch64(source):
    command = [COMPILER, *FLAGS, *library.INCLUDE, "-fsyntax-only", "-Wall", "-Werror", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
