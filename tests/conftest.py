"""Settings of all tests: a CPU with two devices, strict shapes, checked annotations."""

import dataclasses
import gc
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import pytest
from absl import logging
from beartype import BeartypeConf, beartype
from hypothesis import settings

# Tracing makes many objects that stay: looking for garbage among them took 7 % of the time.
gc.set_threshold(200_000, 20, 50)
# Two devices, so that data parallelism is tested everywhere; no wait for accelerators that are not.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
# (n,) + (n, m) is an error here: the shapes that broadcast by accident are the ones that lie.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is most of the time of the tests: programs are optimised little, are made by XLA's older emitters
# (before JAX 0.11) and in one piece, which takes a fifth of the time, and each is compiled once for all test
# processes and runs, however small.
XLA_FLAGS = "--xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_disable_most_optimizations", True)
CACHE = str(Path(__file__).parents[1] / ".jax_cache")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# JAX reads XLA_FLAGS at its first computation. The scripts that tests start are processes of their own.
os.environ |= {
    "XLA_FLAGS": XLA_FLAGS,
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": CACHE,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}

# Where a float is asked for an int will do, as type checkers have it.
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
check_shapes = jaxtyping.jaxtyped


def check(*, typechecker: Callable) -> Callable:
    """Decorates functions with `check_shapes` where annotations hold text, else with `typechecker`.

    Text stands for shapes, or for names that are imported for type checkers only. To compare the shapes of
    a call with each other, `check_shapes` binds the arguments anew, which is too slow for the functions that
    are called most: those that set and check the fields of configs.
    """

    def decorate(checked: Any) -> Any:
        if isinstance(checked, type):
            if dataclasses.is_dataclass(checked):
                checked.__init__ = decorate(checked.__init__)
            return checked
        annotations = getattr(checked, "__annotations__", {}).values()
        has_text = any("'" in inspect.formatannotation(each) for each in annotations)
        return check_shapes(checked, typechecker=typechecker) if has_text else typechecker(checked)

    return decorate


# Checks every annotated shape and type of the package whenever a test calls it.
jaxtyping.jaxtyped = check
jaxtyping.install_import_hook("resnet", f"{__name__}.check_types")

# The same examples in every run, however slow the machine.
settings.register_profile("project", deadline=None, derandomize=True, database=None)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def verbosity_stays():
    """Takes back the log level of a script that a test called: other tests look at their log."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)


# When the tests that have not begun are skipped: a machine that is slow today says what it has tried.
END = time.monotonic() + 60 * float(os.environ.get("TEST_MINUTES", "inf"))


def pytest_runtest_setup(item):
    """Skips what there is no time left for."""
    if time.monotonic() > END:
        item.user_properties.append(("untried", True))
        pytest.skip("no time left of TEST_MINUTES")


# Processor seconds that a test of `make test` may take, its processes and compiling included.
MOST_SECONDS = 3.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Notes the processor time of each test, which other work on the machine hardly changes."""
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        item.user_properties.append(("seconds", sum(os.times()[:4]) - before))


def pytest_terminal_summary(terminalreporter):
    """Says how many tests had no time, and names those that belong into `make test-all`."""
    skipped = terminalreporter.getreports("skipped")
    properties = [dict(getattr(report, "user_properties", ())) for report in skipped]  # modules have none
    if untried := sum("untried" in each for each in properties):
        terminalreporter.line(f"WARNING: {untried} tests had no time, as TEST_MINUTES ran out")
    for report in terminalreporter.getreports("passed"):
        seconds = dict(report.user_properties).get("seconds", 0.0)
        if seconds > MOST_SECONDS and not {"thorough", "slow"} & {*report.keywords}:
            terminalreporter.line(f"{report.nodeid} took {seconds:.1f} s of processors: mark it `thorough`")
