"""What a compiled step does that it should not: copies, wide activations, transfers, memory taken twice."""

import re

from resnet.planning.compiling import Compiled
from resnet.planning.parts import phase
from resnet.planning.program import DEVICE, HOST, ArrayShape, Computation, Instruction, Program
from resnet.planning.traffic import made, moves_nothing, source

# What is smaller costs next to nothing.
LEAST = 1 << 20
_COPIES = {"copy", "copy-start", "transpose"}
_OF_COPIES = {*_COPIES, "fusion", "parameter", "bitcast"}
_TRANSFERS = {"infeed", "outfeed"}
# Sums of norms over all pixels, in float32 on purpose. With as many channels as images they look like
# activations.
_SUMS_OF_NORM = re.compile(r"/norm\d*/dot_general$")
_CALLBACK = "python_gpu_callback"  # XLA calls Python by a custom call on GPUs, by send and recv on TPUs


def findings(compiled: Compiled) -> list[str]:
    """One line for each; [] for a step that is as it should be."""
    program = compiled.program
    return [
        *_copied_arguments(program),
        *_wide_activations(compiled),
        *_transfers(program),
        *_not_shared(compiled),
    ]


def _copied_arguments(program: Program) -> list[str]:
    """Large arguments that are copied to another layout at every step."""
    lines = []
    for instruction, computation, _ in program.scheduled():
        if instruction.bytes < LEAST or not _copies(instruction, program):
            continue
        copied = source(computation.operands(instruction)[0], computation)
        if copied.opcode == "parameter" and computation is program.computations[program.entry]:
            size = copied.bytes / 1e6
            lines.append(
                f"{copied.op_name or copied.name}, {size:.1f} MB, is copied to another layout at every step"
            )
    return lines


def _copies(instruction: Instruction, program: Program) -> bool:
    """Whether an instruction reads an array and writes the same values to the device's memory."""
    if not instruction.operands or all(array.space for array in instruction.results[:1]):
        return False
    opcodes = program.opcodes(instruction)
    return bool(opcodes & _COPIES) and opcodes <= _OF_COPIES


def _wide_activations(compiled: Compiled) -> list[str]:
    """Activations in float32 that a net in bfloat16 writes to memory."""
    config, program = compiled.trainer.config, compiled.program
    if config.model.dtype == "float32":
        return []
    images = config.train.batch_size // compiled.trainer.mesh.shape["data"]
    found = [
        (array, instruction)
        for instruction, computation, _ in program.scheduled()
        if phase(instruction.op_name) in ("forward", "backward") and not moves_nothing(instruction)
        if not _SUMS_OF_NORM.search(instruction.op_name)
        for array in made(instruction, computation)
        if (array.dtype, array.space) == ("f32", DEVICE) and array.bytes >= LEAST
        if _of_images(array, images, config.train.seeds)
    ]
    if not found:
        return []
    largest, writer = max(found, key=lambda pair: pair[0].bytes)
    size = sum(array.bytes for array, _ in found) / 1e6
    return [
        f"{len(found)} activations are written as float32, though the net computes in {config.model.dtype}: "
        f"{size:.1f} MB, such as {list(largest.dims)} of {writer.op_name}"
    ]


def _of_images(array: ArrayShape, images: int, seeds: int) -> bool:
    """Whether the first axis of an array is the images, or the second where several seeds come first."""
    return images in array.dims[: 2 if seeds > 1 else 1]


def _transfers(program: Program) -> list[str]:
    """Exchanges with the host within a step."""
    found = [each.name for each, computation, _ in program.scheduled() if _transfers_by(each, computation)]
    return [f"{len(found)} transfers between device and host, such as {found[0]}"] if found else []


def _transfers_by(instruction: Instruction, computation: Computation) -> bool:
    """Whether an instruction begins an exchange with the host, or reads or writes its memory."""
    if moves_nothing(instruction):
        return False
    arrays = [array for each in (instruction, *computation.operands(instruction)) for array in each.results]
    return (
        instruction.opcode in _TRANSFERS
        or "is_host_transfer=true" in instruction.attributes
        or _CALLBACK in instruction.target
        or HOST in {array.space for array in arrays}
    )


def _not_shared(compiled: Compiled) -> list[str]:
    """Memory that the new state takes beside the old one."""
    missing = compiled.state - compiled.memory["shared"]
    if missing <= 0:
        return []
    return [f"{missing / 1e6:.1f} of {compiled.state / 1e6:.1f} MB of the state are not donated"]
