"""Where the time of a training step goes, by kind of operation, as JAX's profiler sees it."""

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from resnet.planning.program import Instruction, Program, read_program
from scripts.benchmarks.ours import Training
from scripts.benchmarks.timing import compared

# Kinds by what an operation's name and its place in the net hold, or a native one's own name: the first that
# fits.
KINDS = {
    "convolutions, backward": r"resnet_(input|kernel)_gradient|transpose\(.*/(conv\d*|projection)/",
    "convolutions, forward": r"resnet_forward|/(conv\d*|projection)/",
    "sums of norms": r"resnet_(moments|projections)|/norm\d*/.*reduce",
    "norms, ReLU, shortcuts, pools": r"ResNet|^resnet_",
    "copies": r"^\S*copy",
    "optimiser, loss, images": r"",
}
# Operations that stand for others, whose time is counted by itself.
HOLDERS = {"conditional", "while", "call"}
PROFILED = 3


def operations(step: Training, rounds: int) -> dict[str, Any]:
    """Milliseconds of a training step by kind; what overlaps in proportion, so that they add up to the step.

    XLA's own convolutions run beside what the profiler shows, and count for what waits for them.
    """
    kinds = kinds_of(step.compiled.as_text())
    step()
    step()
    values: dict[str, list[float]] = {kind: [] for kind in ("step", *KINDS)}
    for _ in range(min(rounds, PROFILED)):
        took, events = profiled(step)
        found = dict.fromkeys(KINDS, 0.0)
        for name, duration in events:
            if name in kinds:
                found[kinds[name]] += duration
        values["step"].append(took)
        for kind, duration in found.items():
            values[kind].append(took * duration / sum(found.values()))
    return compared(values, "step", "ms")


def kinds_of(text: str) -> dict[str, str]:
    """The kind of each operation of a compiled program, by its name there."""
    program = read_program(text)
    instructions = [each for held in program.computations.values() for each in held.instructions.values()]
    return {each.name: _kind(each, program) for each in instructions if each.opcode not in HOLDERS}


def _kind(operation: Instruction, program: Program) -> str:
    # XLA drops the names of convolutions that it turns round: those to kernels.
    fused = [program.computations[name] for name in operation.called if operation.opcode == "fusion"]
    if not operation.op_name and any(
        each.opcode == "convolution" for held in fused for each in held.instructions.values()
    ):
        return next(iter(KINDS))
    native = operation.target.startswith("resnet_")
    names = operation.target if native else f"{operation.name} {operation.op_name}"
    return next(kind for kind, holds in KINDS.items() if re.search(holds, names))


def profiled(step: Callable[[], Any]) -> tuple[float, list[tuple[str, float]]]:
    """Milliseconds of a call of the step, and (name, milliseconds) of whatever JAX's profiler sees in it."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            begun = time.perf_counter()
            step()
            took = 1e3 * (time.perf_counter() - begun)
        (kept,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(kept))
    lines = (line for plane in profile.planes for line in plane.lines)
    return took, [(event.name, 1e-6 * event.duration_ns) for line in lines for event in line.events]
