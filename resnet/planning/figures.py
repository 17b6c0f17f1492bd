"""What a compiled step costs: by stage and kind of work, and what devices exchange."""

import collections
import dataclasses
from typing import Any

from resnet.planning.compiling import Compiled
from resnet.planning.parts import (
    PHASES,
    UPDATE,
    exchanges,
    kind_of_work,
    name_of,
    names_of_results,
    part,
    phase,
)
from resnet.planning.program import Program
from resnet.planning.traffic import moved_bytes


@dataclasses.dataclass(frozen=True)
class Cost:
    """The work of one part of the net in one phase, of one kind."""

    part: str
    phase: str
    kind: str
    bytes: int
    """Moved between memory and processors."""
    cycles: int
    """As the compiler estimates; 0 where it does not."""


def costs(program: Program) -> list[Cost]:
    """What a device does in a step, most bytes first."""
    sums: dict[tuple[str, str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for instruction, computation, times in program.scheduled():
        moved = moved_bytes(instruction, computation, program)
        if moved or instruction.cycles:
            name = name_of(instruction, computation)
            key = part(name), phase(name), kind_of_work(instruction, program)
            sums[key][0] += times * moved
            sums[key][1] += times * instruction.cycles
    found = [Cost(*key, *values) for key, values in sums.items()]
    return sorted(found, key=lambda cost: -cost.bytes)


def kernels(program: Program) -> int:
    """Instructions of a step that move anything; on a GPU, each starts a kernel or more."""
    return sum(
        times
        for instruction, computation, times in program.scheduled()
        if moved_bytes(instruction, computation, program)
    )


def collectives(program: Program) -> list[dict[str, Any]]:
    """Exchanges between devices by kind, phase and content: how many, and the bytes of one device.

    One that unites several counts in the phase that needs it first.
    """
    sums: dict[tuple[str, str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    channels: set[str] = set()
    for instruction, computation, times in program.scheduled():
        for kind, each, channel in exchanges(instruction, program):
            if channel in channels:
                continue
            channels |= {channel} - {""}
            names = {each.op_name} - {""} or names_of_results(instruction, computation)
            phases = {phase(name) for name in names} or {UPDATE}
            contents = {"statistics" if "/norm" in name else "other" for name in names} or {"other"}
            key = kind, min(phases, key=PHASES.index), " and ".join(sorted(contents, reverse=True))
            sums[key][0] += times
            sums[key][1] += times * each.bytes
    fields = ("kind", "phase", "of")
    return [
        dict(zip(fields, key, strict=True)) | {"count": count, "bytes": size}
        for key, (count, size) in sorted(sums.items(), key=lambda item: -item[1][1])
    ]


def seconds(compiled: Compiled, chip: Any, macs: int) -> dict[str, float]:
    """Least seconds of a step by "bytes", by "operations" and, where the compiler estimates them, "cycles".

    Six operations a multiply-accumulate: two forward and four backward; two where the config freezes
    parameters, as less of the backward pass may be left. Exchanges are in none of them.
    """
    config, mesh = compiled.trainer.config, compiled.trainer.mesh
    images = config.train.batch_size * config.train.seeds / mesh.size
    dtype = config.model.dtype
    operations = (2.0 if config.freeze else 6.0) * macs * images
    found = costs(compiled.program)
    times = {
        "bytes": sum(cost.bytes for cost in found) / chip.bandwidth,
        "operations": operations / chip.operations.get(dtype, chip.operations["bfloat16"]),
    }
    cycles = sum(cost.cycles for cost in found)
    return times | ({"cycles": cycles / chip.clock} if chip.clock and cycles else {})
