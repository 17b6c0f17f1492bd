"""Accelerators that can be planned for: their memory and speed, and their compilers, which need no device.

Speeds are the vendors' peaks. TPUs: the pages "TPU v4", "v5e", "v5p" and "v6e" of cloud.google.com/tpu/docs.
GPUs: NVIDIA's data sheets of H100 SXM5, H200 SXM and A100 SXM4 80 GB, operations without sparsity.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import re
from collections.abc import Sequence
from typing import Any

from resnet.errors import InputError
from resnet.fields import closest

TPU, GPU = "tpu", "cuda"
# Packages that hold a platform's compiler, of which one is enough, and the file that installs one.
COMPILERS = {TPU: ("libtpu",), GPU: ("jax-cuda12-plugin", "jax-cuda13-plugin")}
REQUIREMENTS = {TPU: "requirements-tpu.txt", GPU: "requirements-cuda.txt"}
# What the TPU's compiler asks its surroundings for: that of a machine without any.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device of a kind has."""

    platform: str
    memory: float
    """Bytes that programs can use: the part of the device's memory that JAX reserves for them."""
    bandwidth: float
    """Bytes a second between memory and processors."""
    operations: dict[str, float]
    """Floating-point operations a second, by the type of the convolutions' operands."""
    clock: float = 0.0
    """Cycles a second, which the compiler's estimates are in: the peak over what the matrix units do in a
    cycle; 0 where the compiler makes no estimate."""
    kinds: tuple[str, ...] = ()
    """What JAX calls the devices."""
    description: str = ""
    """What the compiler is told of a GPU: a text of the message GpuTargetConfigProto."""


def _gpu(name: str, capability: int, **numbers: float) -> str:
    """The part of a GpuTargetConfigProto that decides the program."""
    fields = "\n".join(f"  {field}: {value}" for field, value in numbers.items())
    return (
        "gpu_device_info {\n  threads_per_block_limit: 1024\n  threads_per_warp: 32\n"
        "  threads_per_core_limit: 2048\n  shared_memory_per_block: 49152\n"
        "  block_dim_limit_x: 2147483647\n  block_dim_limit_y: 65535\n  block_dim_limit_z: 65535\n"
        "  registers_per_core_limit: 65536\n  registers_per_block_limit: 65536\n"
        f"{fields}\n  cuda_compute_capability {{ major: {capability} }}\n}}\n"
        f'platform_name: "CUDA"\ndnn_version_info {{ major: 9 minor: 8 }}\ndevice_description_str: "{name}"\n'
    )


# The processor that H100 and H200 have in common.
_HOPPER = {
    "core_count": 132, "clock_rate_ghz": 1.98, "fpus_per_core": 128, "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
}  # fmt: skip
_HOPPER_OPERATIONS = {"bfloat16": 989e12, "float32": 495e12}
H100 = _gpu(
    "NVIDIA H100 80GB HBM3", 9, **_HOPPER, l2_cache_size=52428800, memory_bandwidth=3352320000000,
    device_memory_size=84942979072,
)  # fmt: skip
H200 = _gpu(
    "NVIDIA H200", 9, **_HOPPER, l2_cache_size=62914560, memory_bandwidth=4800000000000,
    device_memory_size=150754820096,
)  # fmt: skip
A100 = _gpu(
    "NVIDIA A100-SXM4-80GB", 8, core_count=108, clock_rate_ghz=1.41, fpus_per_core=64,
    shared_memory_per_core=167936, shared_memory_per_block_optin=166912, l2_cache_size=41943040,
    memory_bandwidth=2039040000000, device_memory_size=85100068864,
)  # fmt: skip
# Of a GPU's memory, what JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
_SHARE = 0.75
CHIPS = {
    "v4": Chip(TPU, 32 << 30, 1228e9, {"bfloat16": 275e12}, 1.05e9, ("TPU v4",)),
    "v5e": Chip(TPU, 15.75 * 2**30, 819e9, {"bfloat16": 197e12}, 1.5e9, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip(TPU, 95 << 30, 2765e9, {"bfloat16": 459e12}, 1.75e9, ("TPU v5", "TPU v5p")),
    "v6e": Chip(TPU, 32 << 30, 1640e9, {"bfloat16": 918e12}, 1.75e9, ("TPU v6 lite", "TPU v6e")),
    "h100": Chip(
        GPU, _SHARE * 84.94e9, 3352e9, _HOPPER_OPERATIONS, kinds=("NVIDIA H100 80GB HBM3",), description=H100
    ),
    "h200": Chip(
        GPU, _SHARE * 150.75e9, 4800e9, _HOPPER_OPERATIONS, kinds=("NVIDIA H200",), description=H200
    ),
    "a100": Chip(
        GPU,
        _SHARE * 85.1e9,
        2039e9,
        {"bfloat16": 312e12, "float32": 156e12},
        kinds=("NVIDIA A100-SXM4-80GB",),
        description=A100,
    ),
}
# Devices of the smallest slice that a compiler knows as a whole; one chip alone needs another description.
_ONE_CHIP = {"v5e": "v5e:1x1", "v6e": "v6e:1x1"}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for, as a user names them: v5e, v5e:2x2, h100, h100x8."""

    name: str
    chip: Chip
    topology: str
    """As the compiler names it: "v5e:2x2", or the number of GPUs."""

    def compiler(self) -> tuple[str, str]:
        """(package, version) of its compiler; InputError if none is installed."""
        for package in COMPILERS[self.chip.platform]:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return package, importlib.metadata.version(package)
        file = REQUIREMENTS[self.chip.platform]
        raise InputError(f"--for={self.name} needs the compiler of that device: pip install -r {file}")

    def devices(self) -> Sequence[Any]:
        """Devices to compile for, which can run nothing; InputError if the compiler lacks or refuses them."""
        from jax.experimental import topologies

        compiler = " ".join(self.compiler())
        try:
            if self.chip.platform == TPU:
                return _tpu_devices(topologies, self.topology)
            found = topologies.get_topology_desc(
                platform="cuda",
                topology_name=self.name,
                topology=f"1x1x{self.topology}",
                target_config=self.chip.description,
            )
            return found.devices
        except Exception as error:  # each library has its own
            reason = " ".join(str(error).split())[:200]
            kind = re.split("[:x]", self.name)[0]
            works = f"{kind}:2x2" if self.chip.platform == TPU else kind
            raise InputError(
                f"--for={self.name}: {compiler} refuses it ({reason}); --for={works} works"
            ) from None


def _tpu_devices(topologies: Any, topology: str) -> Sequence[Any]:
    for name, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    one = {"chips_per_host_bounds": (1, 1, 1)} if topology in _ONE_CHIP.values() else {}
    return topologies.get_topology_desc(topology, platform="tpu", **one).devices


def parse_target(text: str) -> Target:
    """The target of a name; InputError for what is none."""
    found = re.fullmatch(r"([a-z]\w*?)(?::(\d+(?:x\d+)*)|x(\d+))?", text)
    kind, topology, count = found.groups() if found else (text, None, None)
    chip = CHIPS.get(kind)
    if chip is None:
        raise InputError(f"--for knows {', '.join(CHIPS)}; got {text!r}{closest(kind, CHIPS)}")
    if chip.platform == GPU and not topology:
        if int(count or 1) < 1:
            raise InputError(f"--for={text} must name one device or more")
        return Target(text, chip, count or "1")
    if chip.platform == TPU and not count:
        topology = f"{kind}:{topology}" if topology else _ONE_CHIP.get(kind, "")
        if topology and _whole_hosts(topology):
            return Target(text, chip, topology)
    raise InputError(
        "--for takes a slice of TPUs with even sides, as a host has 2x2 chips, such as v5e:2x2, v5e:2x4 or "
        f"v5p:2x2x1 (v5e and v6e: one chip), or a number of GPUs, such as h100x8; got {text!r}"
    )


def _whole_hosts(topology: str) -> bool:
    """Whether a slice consists of hosts of 2x2 chips, or is one chip that a compiler knows alone."""
    sides = [int(side) for side in topology.split(":")[1].split("x")]
    even = len(sides) in (2, 3) and all(side and side % 2 == 0 for side in sides[:2])
    return topology in _ONE_CHIP.values() or even


def use_no_device() -> None:
    """Keeps this process from starting an accelerator that is here: a compiler needs none, and takes none."""
    import jax

    jax.config.update("jax_platforms", "cpu")
