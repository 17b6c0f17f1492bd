"""What is measured: each part a function from a case to named values, one of which is the reference."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

from configs.studies.augmentation import get_study
from resnet.errors import InputError
from resnet.studies.study import value_at
from scripts.benchmarks import ours, stock
from scripts.benchmarks.augmentation import BATCHES, KINDS, REFERENCE, augmentation_steps
from scripts.benchmarks.inputs import input_steps
from scripts.benchmarks.limits import limits
from scripts.benchmarks.loop import loop, streamed
from scripts.benchmarks.memory import working_memory
from scripts.benchmarks.operations import operations
from scripts.benchmarks.runs import SEEDS, runs
from scripts.benchmarks.streams import BATCH, CORES, SIZE, photographs, scale
from scripts.benchmarks.timing import compared, interleave
from scripts.peers import torch_steps
from scripts.peers.torch_nets import CASES, TINY, Case

Steps = dict[str, Callable[[], Any]]
SEED_BATCH = 32
STEPS = 8
DEEP, DIGITS = "resnet1001", "digits"
USUAL = ("data.random_crop", "data.flip")
CACHE = "jax_compilation_cache_dir"


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure, and on what."""

    rounds: int
    seconds: float
    compiled: bool
    """Whether torch.compile takes part, which compiles for minutes."""
    dtype: str


@dataclasses.dataclass(frozen=True)
class Part:
    """A question, the function that answers it for a case, and the cases it is asked for."""

    title: str
    measure: Callable[[Case, Effort], dict[str, Any]]
    cases: tuple[str, ...]
    any_type: bool = False
    """Whether `Effort.dtype` counts; else it must be float32."""


def _timed(steps: Steps, reference: str, effort: Effort) -> dict[str, Any]:
    return compared(interleave(steps, effort.rounds, effort.seconds), reference, "s")


def _devices() -> int:
    """Devices that the CPU counts as, to share a batch; on others one is measured."""
    return len(jax.devices()) if jax.default_backend() == "cpu" else 1


def _of_pytorch(make: Callable[..., Callable[[], Any]], case: Case, effort: Effort) -> Steps:
    """Steps of PyTorch, eager and compiled; none where it is not installed, which is said."""
    try:
        steps = {"PyTorch": make(case, effort.dtype)}
    except InputError as missing:
        logging.warning("%s is measured without PyTorch: %s", case.name, missing)
        return {}
    return steps | ({"torch.compile": make(case, effort.dtype, compiled=True)} if effort.compiled else {})


def training(case: Case, effort: Effort) -> dict[str, Any]:
    """A training step of ours on one device and on all, against PyTorch's."""
    steps = _of_pytorch(torch_steps.training_step, case, effort)
    steps["ours"] = ours.training_step(case, dtype=effort.dtype)
    if _devices() > 1:
        devices = _devices()
        steps[f"ours, {devices} host devices"] = ours.training_step(case, devices=devices, dtype=effort.dtype)
    return _timed(steps, next(iter(steps)), effort)


def inference(case: Case, effort: Effort) -> dict[str, Any]:
    """Logits of a batch, against PyTorch."""
    steps = _of_pytorch(torch_steps.inference_step, case, effort)
    steps["ours"] = ours.inference_step(case, dtype=effort.dtype)
    return _timed(steps, next(iter(steps)), effort)


def stock_flax(case: Case, effort: Effort) -> dict[str, Any]:
    """A training step of nn.Conv and nn.BatchNorm, of our net with XLA's convolutions, and of ours."""
    steps = {
        "stock Flax": stock.training_step(case),
        "ours, XLA's convolutions": ours.training_step(case, plain=True),
        "ours": ours.training_step(case),
    }
    return _timed(steps, "stock Flax", effort)


def scanned_steps(case: Case, effort: Effort) -> dict[str, Any]:
    """Eight steps one call each, and in one call."""
    alone = ours.training_step(case)
    steps = {
        "one by one": lambda: [alone() for _ in range(STEPS)],
        "in one call": ours.training_step(case, steps=STEPS),
    }
    return _timed(steps, "one by one", effort)


def seeds(case: Case, effort: Effort) -> dict[str, Any]:
    """A step of four seeds, one after the other and together."""
    case = dataclasses.replace(case, batch=min(case.batch, SEED_BATCH))
    alone = ours.training_step(case)
    steps = {
        "one after the other": lambda: [alone() for _ in range(SEEDS)],
        "together": ours.training_step(case, seeds=SEEDS),
    }
    if _devices() > 1:
        steps[f"together, {_devices()} host devices"] = ours.training_step(
            case, seeds=SEEDS, devices=_devices()
        )
    return _timed(steps, "one after the other", effort)


def scanned_blocks(case: Case, effort: Effort) -> dict[str, Any]:
    """A training step with the blocks of a stage unrolled, scanned, and scanned and recomputed."""
    steps = {
        "unrolled": ours.training_step(case, scan_blocks=False),
        "scanned": ours.training_step(case, scan_blocks=True),
        "scanned, remat": ours.training_step(case, scan_blocks=True, remat=True),
    }
    return _timed(steps, "unrolled", effort)


def memory(case: Case, effort: Effort) -> dict[str, Any]:
    """MB that a training step needs while it runs, weights and images aside."""
    eager = dataclasses.replace(effort, compiled=False)
    steps = _of_pytorch(torch_steps.training_step, case, eager) | {
        "ours": ours.training_step(case, dtype=effort.dtype),
        "ours, remat": ours.training_step(case, dtype=effort.dtype, scan_blocks=True, remat=True),
    }
    values = {name: [working_memory(step) for _ in range(3)] for name, step in steps.items()}
    return compared(values, next(iter(values)), "MB")


def operations_of_ours(case: Case, effort: Effort) -> dict[str, Any]:
    """Milliseconds of a training step by kind of operation."""
    return operations(ours.training_step(case), effort.rounds)


def operations_of_stock(case: Case, effort: Effort) -> dict[str, Any]:
    """The same of nn.Conv and nn.BatchNorm."""
    return operations(stock.training_step(case), effort.rounds)


def compiling(case: Case, effort: Effort) -> dict[str, Any]:
    """Seconds until a training step can run: unrolled, scanned, and scanned from the cache on disk."""
    values: dict[str, list[float]] = {}
    kinds = {"scanned": {"scan_blocks": True}, "unrolled": {"scan_blocks": False}}
    for _ in range(min(3, effort.rounds)):
        for name, fields in kinds.items():
            if case.name != DEEP or name == "scanned":
                values.setdefault(name, []).append(_compile_seconds(case, fields))
        with tempfile.TemporaryDirectory() as folder:
            for name in ("", "scanned, from the cache"):
                seconds = _compile_seconds(case, kinds["scanned"], folder)
                if name:
                    values.setdefault(name, []).append(seconds)
    return compared(values, "scanned", "s")


def compiling_deep(case: Case, effort: Effort) -> dict[str, Any]:
    """Seconds to compile a training step of ResNet-20 and of a very deep net, both as they run by default."""
    nets = {"resnet20": case if case is TINY else CASES["resnet20"], case.name: case}
    values: dict[str, list[float]] = {name: [] for name in nets}
    for _ in range(min(5, effort.rounds)):
        for name, net in nets.items():
            values[name].append(_compile_seconds(net, {}))
    return compared(values, "resnet20", "s")


def _compile_seconds(case: Case, fields: dict[str, Any], cache: str | None = None) -> float:
    from jax.experimental.compilation_cache import compilation_cache

    jax.clear_caches()
    kept = getattr(jax.config, CACHE)
    compilation_cache.reset_cache()
    jax.config.update(CACHE, cache)
    try:
        program, _ = ours.lowered(case, **fields)
        begun = time.perf_counter()
        program.compile()
        return time.perf_counter() - begun
    finally:
        compilation_cache.reset_cache()
        jax.config.update(CACHE, kept)


def inputs(case: Case, effort: Effort) -> dict[str, Any]:
    """What a step needs besides the net: augmentation, order of examples, decoding; over a whole step."""
    return _timed(input_steps(case), "training step", effort)


def augment(case: Case, effort: Effort) -> dict[str, Any]:
    """Images a second through an operation or a policy of augmentation, by Pillow and by ours."""
    kind = KINDS.get(case.name, next(iter(KINDS.values())))
    times = interleave(augmentation_steps(kind, case.batch, case.side), effort.rounds, effort.seconds)
    rates = {name: [case.batch / seconds for seconds in series] for name, series in times.items()}
    return compared(rates, REFERENCE, "images/s") | {"dtype": "uint8"}


def augmented(case: Case, effort: Effort) -> dict[str, Any]:
    """A training step for each arm of configs/studies/augmentation.py."""
    study = get_study("small")
    usual = {field: value_at(study.base, field) for field in USUAL}
    steps = {
        name: ours.training_step(case, changes={**usual, **arm.changes}) for name, arm in study.arms.items()
    }
    return _timed(steps, "none", effort)


ALL = tuple(CASES)
KNOWN_TO_STOCK = ("resnet20", "resnet50")
PARTS = {
    "training": Part("Training step: forward, backward, SGD", training, ALL, any_type=True),
    "inference": Part("Inference of a batch", inference, ALL, any_type=True),
    "flax": Part("Training step, stock Flax and ours", stock_flax, KNOWN_TO_STOCK),
    "scan": Part(f"{STEPS} training steps", scanned_steps, ("resnet20",)),
    "seeds": Part(f"A training step of {SEEDS} seeds, batch {SEED_BATCH}", seeds, ("resnet20",)),
    "runs": Part("Four runs of configs/digits.py by scripts/train.py", runs, (DIGITS,)),
    "depth": Part("Training step, blocks scanned", scanned_blocks, ("resnet56", "resnet110")),
    "compile": Part("Compiling a training step", compiling, ("resnet20", "resnet56", "resnet110", DEEP)),
    "deep": Part("Compiling a training step, however deep", compiling_deep, (DEEP,)),
    "input": Part("What comes before the net", inputs, ("resnet20",)),
    "stream": Part(
        "Photographs of 500x375 pixels for training at 224, 256 of them", photographs, tuple(CORES)
    ),
    "streamed": Part("Training on a stream that keeps up", streamed, ("resnet20",)),
    "scale": Part("A stream at the scale of ImageNet", scale, ("resnet20",)),
    "augment": Part("Augmentation of a batch, beside Pillow's", augment, tuple(KINDS)),
    "augmented": Part("Training step, by kind of augmentation", augmented, ("resnet20",)),
    "memory": Part(
        "Working memory of a training step", memory, ("resnet20", "resnet110", "resnet50"), any_type=True
    ),
    "loop": Part("Training by scripts/train.py", loop, ("resnet20",)),
    "limits": Part("Share of the machine's limits", limits, ALL, any_type=True),
    "operations": Part("A training step by kind of operation", operations_of_ours, KNOWN_TO_STOCK),
    "operations_stock": Part("The same of stock Flax", operations_of_stock, KNOWN_TO_STOCK),
}
# On a GPU, batches that fill the card.
GPU_BATCHES = {"resnet50": 256, "resnet18": 256, "resnext50_32x4d": 256, "resnet20": 512}


def case_named(name: str, quick: bool) -> Case:
    """The case, or in its place the tiny one."""
    if quick:
        return TINY
    if name in CORES:
        return dataclasses.replace(CASES["resnet20"], name=name, batch=BATCH, side=SIZE)
    if name in KINDS:
        side = int(name.rpartition("-")[2])
        return dataclasses.replace(CASES["resnet20"], name=name, batch=BATCHES[side], side=side)
    if name == DIGITS:
        return dataclasses.replace(CASES["resnet20"], name=DIGITS, batch=64, side=8)
    if name == DEEP:
        return dataclasses.replace(CASES["resnet20"], name=DEEP, peer=_deep_peer())
    case = CASES[name]
    if jax.default_backend() == "gpu":
        return dataclasses.replace(case, batch=GPU_BATCHES.get(name, case.batch))
    return case


def _deep_peer() -> Any:
    from resnet.models.zoo import ZOO
    from scripts.peers.nets import Peer

    return Peer(lambda num_outputs: None, ZOO[DEEP].config, "", "no twin: only compiled")
