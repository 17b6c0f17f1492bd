"""Settings of the machine: devices of the CPU, memory, and what must be known before JAX starts."""

import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet.config import Config
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.kernels import convolution, native
from resnet.models.config import ModelConfig
from resnet.models.scanning import compiles_quickly
from resnet.runtime import devices, machine
from resnet.runtime.cache import CacheConfig
from resnet.runtime.devices import ParallelConfig, make_mesh
from resnet.training.trainer import make_trainer
from tests.studies_cases import tiny_config


def test_seeds_are_shared_evenly_by_the_processors(monkeypatch):
    monkeypatch.setattr(devices, "processors", lambda: 4)
    found = [devices.host_devices(ParallelConfig(), seeds) for seeds in (1, 2, 3, 4, 5, 6, 8)]
    assert found == [1, 2, 3, 4, 1, 3, 4]
    assert devices.host_devices(ParallelConfig(host_devices=2), 1) == 2


@pytest.mark.parametrize(
    ("environment", "asked", "counted"),
    [
        ({}, 0, 6),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 0, None),
        ({"XLA_FLAGS": "--a --xla_force_host_platform_device_count=3"}, 3, None),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 0, None),
    ],
)
def test_devices_that_the_environment_counts_are_left_alone(monkeypatch, environment, asked, counted):
    updates = []
    monkeypatch.setattr(machine.jax.config, "update", lambda *update: updates.append(update))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    machine.count_devices(asked, 6)
    assert updates == ([("jax_num_cpu_devices", counted)] if counted else [])
    if environment:
        with pytest.raises(InputError, match=r"`parallel.host_devices` is 2, and the environment has"):
            machine.count_devices(2, 2)


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuad'")])
def test_a_device_that_is_not_there_is_named(monkeypatch, error):
    def failing():
        raise error

    monkeypatch.setattr(machine.jax, "devices", failing)
    with pytest.raises(InputError, match=rf"no device for JAX_PLATFORMS='cpu'.*{error}.*: unset it"):
        machine.check_devices()


PROGRAM = """
import sys, jax
sys.argv = [sys.argv[0], "--config=configs/digits.py"]
sys.path[:0] = ["."]
from resnet.cli import options
options.define_config(); options.FLAGS(sys.argv)
options.chosen_config(OVERRIDES)
jax.jit(lambda x: jax.numpy.linalg.svd(x)[1])(jax.numpy.ones((7, 7)))
print(len(jax.devices()))
"""


@pytest.mark.thorough
def test_scripts_set_devices_and_cache_before_the_first_computation(tmp_path):
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    overrides = [f"--config.cache.dir={tmp_path / 'programs'}", "--config.parallel.host_devices=3"]
    program = PROGRAM.replace("OVERRIDES", repr(overrides))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "3\n"
    assert any((tmp_path / "programs").iterdir())


HASHED = """
from resnet.config import Config

def get_config():
    config = Config(deterministic=True)
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.family, config.model.blocks, config.model.head_dropout = "chain", (9,), 0.5
    config.train.batch_size, config.train.duration = 16, "4 steps"
    return config
"""


def run_script(name, *arguments, **environment):
    command = [sys.executable, f"scripts/{name}.py", *map(str, arguments)]
    environment = os.environ | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.thorough
def test_two_deterministic_runs_hash_alike_and_their_programs_are_kept(tmp_path):
    (tmp_path / "config.py").write_text(HASHED)
    found = []
    # What the environment would draw otherwise is overruled.
    others = {"JAX_THREEFRY_PARTITIONABLE": "0", "JAX_RANDOM_SEED_OFFSET": "5", "JAX_ENABLE_X64": "1"}
    for name, environment in {"a": {}, "b": others}.items():
        arguments = [f"--config={tmp_path}/config.py", f"--workdir={tmp_path / name}"]
        result = run_script("train", *arguments, **environment)
        session = json.loads((tmp_path / name / "run.json").read_text())["sessions"][0]
        assert session["numerics"]["partitionable"] and session["numerics"]["deterministic"]
        assert {*machine.DETERMINISTIC} <= {*session["numerics"]["xla_flags"].split()}
        found.append(result["sha256"])
    assert found[0] == found[1] and len(found[0]) == 64
    # Of a script that has no config of its own: that of the run. Programs are kept that take long to compile,
    # as nine blocks do on fast processors too; native convolutions, which would be compiled anew to be kept
    # there, are not what is tested.
    programs = tmp_path / "programs"
    result = run_script(
        "evaluate",
        f"--workdir={tmp_path / 'a'}",
        f"--config.cache.dir={programs}",
        "--config.parallel.host_devices=2",
        JAX_COMPILATION_CACHE_DIR="",
        JAX_DISABLE_MOST_OPTIMIZATIONS="0",
        CXX="/nowhere/c++",
    )
    assert result["split"] == "test" and any(programs.glob("jit*"))


def test_64_bits_are_refused_in_another_program():
    with jax.enable_x64(True), pytest.raises(InputError, match="`jax_enable_x64` is on"):
        machine.check_prepared(Config())


def test_deterministic_must_be_known_before_jax_starts(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(InputError, match="`deterministic` must be known before JAX starts"):
        machine.check_prepared(Config(deterministic=True))
    machine.check_prepared(Config())
    monkeypatch.setenv("XLA_FLAGS", " ".join(machine.DETERMINISTIC))
    machine.check_prepared(Config(deterministic=True))
    monkeypatch.setenv("XLA_FLAGS", f"--own=1 {machine.DETERMINISTIC[0]}")
    machine.prepare(dataclasses.replace(Config(deterministic=True), parallel=ParallelConfig(2)))
    assert os.environ["XLA_FLAGS"].split() == ["--own=1", *machine.DETERMINISTIC]


FAULTS = """
import resource
import jax, numpy as np
from resnet.config import Config
from resnet.runtime import machine
config = Config()
config.parallel.keep_memory = KEEP
machine.prepare(config)
large = jax.jit(lambda x: (x[:, None] + x[None]) @ x)
x = np.ones(4096, np.float32)
def pages():
    large(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pages()
before = pages()
for _ in range(60):
    after = pages()
print(after - before)
"""


@pytest.mark.thorough
@pytest.mark.skipif("glibc" not in " ".join(platform.libc_ver()), reason="another library serves memory")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_stays_with_the_process(keep):
    """A program that needs 64 MB touches them anew each of 60 times only where they were given back.

    Smaller pieces may come to lie in what was freed; then there is more of it, a few times in hundreds.
    """
    program = FAULTS.replace("KEEP", str(keep))
    pages = int(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert (pages < 30 * 2**26 / resource.getpagesize()) == keep


PROBE = """
import mmap
memory = mmap.mmap(-1, 2**28, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
memory[:: mmap.PAGESIZE] = bytes(2**28 // mmap.PAGESIZE)
"""
HUGE = """
import ctypes, resource
from resnet.runtime.machine import keep_memory
if LIMITED:
    resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(libc.malloc(ctypes.c_size_t(2**28)), 1, 2**28)
"""
COUNTED = """
from pathlib import Path
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("AnonHugePages:")))
"""
PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def in_huge_pages(program):
    """Kilobytes of a program's memory."""
    return int(subprocess.check_output([sys.executable, "-c", program + COUNTED], text=True))


@pytest.mark.thorough
@pytest.mark.skipif(
    not PAGES.exists() or "[madvise]" not in PAGES.read_text(), reason="huge pages cannot be asked for"
)
@pytest.mark.parametrize("limited", [False, True])
def test_memory_comes_in_huge_pages(limited):
    """Huge pages hold at least half of an array of 256 MB; under a limit of address space they hold none."""
    if in_huge_pages(PROBE) <= 2**17:
        pytest.skip("there are too few free huge pages")
    assert (in_huge_pages(HUGE.replace("LIMITED", str(limited))) > 2**17) != limited


def test_wrong_fields():
    with pytest.raises(InputError, match="`parallel.host_devices` must be at least 0; got -1"):
        ParallelConfig(host_devices=-1).check()
    with pytest.raises(InputError, match="`cache.megabytes` must be at least 1; got 0"):
        CacheConfig(megabytes=0).check()


def options_of(count, model):
    return devices.compiler_options(devices.make_mesh(count), quickly=compiles_quickly(model))


def test_convolutions_share_the_processors_of_a_device(monkeypatch):
    """An option the compiler does not know is an error, so that a new version of it cannot drop ours."""
    monkeypatch.setattr(devices, "processors", lambda: 2)
    assert options_of(1, ModelConfig()) == devices.WITHOUT_YNN_CONVOLUTIONS
    assert options_of(2, ModelConfig()) == {}
    with monkeypatch.context() as patch:
        patch.setattr(devices, "platform", lambda mesh: "tpu")
        assert options_of(1, ModelConfig()) == {}

    def convolved(options):
        lowered = jax.jit(lambda x, kernel: convolution.plain(x, kernel, 1, 1)).lower(x, kernel)
        return lowered.compile(compiler_options=options).as_text()

    x, kernel = jax.numpy.ones((2, 8, 8, 32)), jax.numpy.ones((3, 3, 32, 32))
    assert "ynn" in convolved(None)
    assert "ynn" not in convolved(options_of(1, ModelConfig()))


@pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")
@pytest.mark.parametrize("on", [True, False])
def test_a_step_calls_native_code_unless_it_is_turned_off(on):
    config = tiny_config()
    config.model.width = 1.0
    config.parallel = ParallelConfig(host_devices=2, native=on, keep_memory=False)
    try:
        machine.prepare(config)
        trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
        text = trainer.train().lower(trainer.shapes, trainer.batch(range(1))).as_text()
    finally:
        native.use(True)
    assert ("custom_call @resnet_" in text) == on


@pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")
def test_scanned_nets_compile_quickly():
    plain, scanned = (options_of(1, ModelConfig(scan_blocks=scan)) for scan in (False, True))
    assert scanned == plain | devices.COMPILED_QUICKLY
    x = jax.numpy.linspace(-1, 1, 64)
    # Here too an option that the compiler does not know would be an error.
    found, expected = (jax.jit(jax.nn.silu, compiler_options=options)(x) for options in (scanned, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # With XLA's convolutions their steps would be slower.
    assert options_of(1, ModelConfig(scan_blocks=True, dtype="bfloat16")) == plain
    native.use(False)
    try:
        assert options_of(1, ModelConfig(scan_blocks=True)) == plain
    finally:
        native.use(True)
