"""Settings of all tests: a CPU with two devices, strict shapes, checked annotations."""

import os
from pathlib import Path

import jax
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

# Two devices, so that data parallelism is tested everywhere; no wait for accelerators that are not.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
# (n,) + (n, m) is an error here: the shapes that broadcast by accident are the ones that lie.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is most of the time of the tests: programs are optimised little, and each is compiled once for
# all test processes and runs, however small.
jax.config.update("jax_disable_most_optimizations", True)
CACHE = str(Path(__file__).parents[1] / ".jax_cache")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# The scripts that tests start are processes of their own.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": CACHE,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}

# Where a float is asked for an int will do, as type checkers have it.
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
# Checks every annotated shape and type of the package whenever a test calls it.
install_import_hook("resnet", f"{__name__}.check_types")

# The same examples in every run, however slow the machine.
settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")
