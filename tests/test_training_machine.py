"""Settings of the machine: devices of the CPU, and the cache of compiled programs."""

import os
import subprocess
import sys

import jax
import pytest

from resnet.errors import InputError
from resnet.training import cache, parallel
from resnet.training.cache import CacheConfig
from resnet.training.parallel import ParallelConfig


def test_seeds_are_shared_evenly_by_the_processors(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    found = [parallel.host_devices(ParallelConfig(), seeds) for seeds in (1, 2, 3, 4, 5, 6, 8)]
    assert found == [1, 2, 3, 4, 1, 3, 4]
    assert parallel.host_devices(ParallelConfig(host_devices=2), 1) == 2


PROGRAM = """
import sys, jax
sys.argv = [sys.argv[0], "--config=configs/digits.py"]
sys.path[:0] = ["scripts", "."]
import cli
cli.define_config(); cli.FLAGS(sys.argv)
cli.load_config(OVERRIDES)
jax.jit(lambda x: jax.numpy.linalg.svd(x)[1])(jax.numpy.ones((7, 7)))
print(len(jax.devices()))
"""


def test_scripts_set_devices_and_cache_before_the_first_computation(tmp_path):
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    overrides = [f"--config.cache.dir={tmp_path / 'programs'}", "--config.parallel.host_devices=3"]
    program = PROGRAM.replace("OVERRIDES", repr(overrides))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3\n"
    assert any((tmp_path / "programs").iterdir())


def test_the_users_own_cache_goes_first(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    cache.keep_programs(CacheConfig(dir="/nowhere"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cache.keep_programs(CacheConfig(dir=""))
    assert jax.config.jax_compilation_cache_dir == before


def test_wrong_fields():
    with pytest.raises(InputError, match="`parallel.host_devices` must be at least 0; got -1"):
        ParallelConfig(host_devices=-1).check()
    with pytest.raises(InputError, match="`cache.megabytes` must be at least 1; got 0"):
        CacheConfig(megabytes=0).check()
