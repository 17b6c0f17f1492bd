"""This process and its machine: what JAX must know before it starts, and what decides the numbers."""

import ctypes
import mmap
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet.config import Config
from resnet.data.streams import GENERATOR, pin_streams
from resnet.errors import InputError
from resnet.kernels import native
from resnet.kernels.native import library
from resnet.runtime.cache import keep_programs
from resnet.runtime.devices import host_devices

# No atomic additions, whose order changes; and no choice of kernels by how fast they were just now.
DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")
HOST_DEVICES = "--xla_force_host_platform_device_count"
# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def prepare(config: Config) -> None:
    """Settings of this process, which JAX must know before its first computation."""
    pin_streams()
    jax.config.update("jax_enable_x64", False)
    keep_programs(config.cache)
    count_devices(config.parallel.host_devices, host_devices(config.parallel, config.train.seeds))
    native.use(config.parallel.native)
    library.keep_in(config.cache.dir)
    if config.parallel.keep_memory:
        keep_memory()
    if config.deterministic:
        os.environ["XLA_FLAGS"] = " ".join([*_xla_flags(), *_missing_flags()])


def count_devices(asked: int, chosen: int) -> None:
    """Makes the CPU count as `chosen` devices, unless the environment says how many.

    InputError where the environment and `parallel.host_devices`, which is `asked`, disagree.
    """
    given = _devices_of_environment()
    if not given:
        jax.config.update("jax_num_cpu_devices", chosen)
    elif asked and any(asked != count for count in given.values()):
        raise InputError(
            f"`parallel.host_devices` is {asked}, and the environment has {', '.join(given)}: "
            "leave one of them out"
        )


def _devices_of_environment() -> dict[str, int]:
    """The numbers of CPU devices that environment variables ask for, by variable."""
    found = {}
    if (count := os.environ.get("JAX_NUM_CPU_DEVICES", "")).isdecimal():
        found[f"JAX_NUM_CPU_DEVICES={count}"] = int(count)
    for flag in _xla_flags():
        name, _, count = flag.partition("=")
        if name == HOST_DEVICES and count.isdecimal():
            found[f"XLA_FLAGS={flag}"] = int(count)
    return found


def check_devices() -> None:
    """Starts JAX's devices; InputError if there is none of the kind that it was told to use."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
        reason = f" ({' '.join(str(error).split())})" if str(error) else ""
        raise InputError(
            f"JAX finds no device for JAX_PLATFORMS={platforms!r}{reason}: unset it, set it to cpu, or "
            "install JAX for that device"
        ) from None


def keep_memory() -> None:
    """Keeps freed memory in this process from now on; to be called before JAX starts its threads.

    XLA on the CPU allocates the memory of a step anew at every step, and the kernel clears each page that it
    hands out, which took a quarter of the step.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(M_ARENA_MAX, 1)  # for all threads
        libc.mallopt(M_MMAP_MAX, 0)  # nothing apart from it
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # nothing is given back
        _advise_huge_pages(libc)


def _advise_huge_pages(libc: ctypes.CDLL) -> None:
    """Asks the kernel for pages of 2 MB where malloc gets its memory from.

    Only what malloc has already can be asked for, so its heap grows at once by half of the machine's memory.
    A page is taken when it is first written to. Where address space itself is limited, all stays as it is.
    """
    if not _address_space_is_free():
        return
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    page = os.sysconf("SC_PAGE_SIZE")
    first = libc.malloc(ctypes.c_size_t(os.sysconf("SC_PHYS_PAGES") // 2 * page))
    if first:
        start = -(-first // page) * page
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(libc.sbrk(0) - start), mmap.MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(first))


def _address_space_is_free() -> bool:
    """Whether memory counts only once it is written to, by the limits of this process and of the kernel."""
    try:
        strict = Path("/proc/sys/vm/overcommit_memory").read_text("ascii").strip() == "2"
    except OSError:
        return False
    return not strict and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def check_prepared(config: Config) -> None:
    """Pins random streams. Raises InputError if JAX has settings that change the numbers of the config."""
    pin_streams()
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise InputError(
            "`jax_enable_x64` is on: draws and states would be of 64 bits, and not those of the config; call "
            "jax.config.update('jax_enable_x64', False) before training"
        )
    missing = _missing_flags()
    if config.deterministic and missing and jax.default_backend() == "gpu":
        raise InputError(
            "`deterministic` must be known before JAX starts: call resnet.runtime.machine.prepare(config) "
            f"before all else, or set XLA_FLAGS={' '.join(missing)!r}"
        )


def numerics(config: Config) -> dict[str, Any]:
    """What decides the numbers of this process, beside the config, the versions and the devices."""
    on_cpu = jax.default_backend() == "cpu"
    return {
        "deterministic": config.deterministic or on_cpu,
        "generator": GENERATOR,
        "partitionable": jax.config.jax_threefry_partitionable,  # type: ignore[attr-defined]
        "native": on_cpu and native.in_use(),
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def devices() -> dict[str, Any]:
    """The devices in use, and the processors of this machine with their widest instructions."""
    kinds = [device.device_kind for device in jax.devices()]
    return {
        "backend": jax.default_backend(),
        "kinds": kinds,
        "cpu_count": os.cpu_count(),
        "instructions": _instructions(),
    }


def _instructions() -> str:
    """As NumPy names them: "X86_V3" has AVX2, "X86_V4" AVX-512. Empty where it knows none."""
    known = np.show_config(mode="dicts")["SIMD Extensions"]
    return ([*known.get("baseline", []), *known.get("found", [])] or [""])[-1]


def _xla_flags() -> list[str]:
    return os.environ.get("XLA_FLAGS", "").split()


def _missing_flags() -> list[str]:
    return [flag for flag in DETERMINISTIC if flag not in _xla_flags()]
