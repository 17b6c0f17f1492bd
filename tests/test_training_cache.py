"""The cache of compiled programs: its folder, and a program that a killed process wrote half of."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from resnet.config import Config, check_config
from resnet.runtime import cache
from resnet.runtime.cache import CacheConfig


def test_the_users_own_cache_goes_first(monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    cache.keep_programs(CacheConfig(dir="/nowhere"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cache.keep_programs(CacheConfig(dir=""))
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize("lost", ["home", "write"])
def test_a_user_without_a_home_trains_without_kept_programs(monkeypatch, tmp_path, lost):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    warned = []
    monkeypatch.setattr(cache.logging, "warning", lambda text, *values: warned.append(text % values))
    before = jax.config.jax_compilation_cache_dir
    if lost == "home":

        def expanduser(path):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", expanduser)
    else:
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        (tmp_path / "file").touch()
    check_config(Config())
    cache.keep_programs(CacheConfig())
    assert jax.config.jax_compilation_cache_dir == before
    assert len(warned) == 1 and warned[0].startswith("Compiled programs are not kept for other runs: ")


KEPT = """
import sys
import jax
from resnet.runtime.cache import CacheConfig, keep_programs
keep_programs(CacheConfig(dir=sys.argv[1]))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x + 1)(1.0), jax.jit(lambda x: x * 3)(1.0)
"""


@pytest.mark.thorough
def test_half_a_program_of_a_killed_process_is_replaced_and_others_stay(tmp_path):
    def kept():
        theirs = "JAX_COMPILATION_CACHE_DIR"
        environment = {name: value for name, value in os.environ.items() if name != theirs}
        command = [sys.executable, "-W", "error", "-c", KEPT, str(tmp_path)]
        subprocess.run(command, env=environment, check=True)
        return {path: path.read_bytes() for path in tmp_path.glob("*-cache")}, times()

    def times():
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-cache")}

    before, written = kept()
    cut = min(before)
    cut.write_bytes(before[cut][:100])
    cut.with_name(cut.name.removesuffix("cache") + "atime").unlink()
    after, rewritten = kept()
    assert len(before) > 1 and after.keys() == before.keys() and len(after[cut]) > 100
    assert [path for path in after if rewritten[path] != written[path]] == [cut]
