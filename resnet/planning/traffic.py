"""Bytes that an instruction moves between a device's memory and its processors."""

from resnet.planning.program import DEVICE, Computation, Instruction, Program

# What moves nothing: names for what is there already, ends of what was counted where it began, and what is
# counted by its own instructions.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "add-dependency", "opt-barrier", "while", "call", "conditional", "iota", "copy-done",
    "async-done", "async-update", "all-reduce-done", "all-gather-done", "collective-permute-done",
    "send-done", "recv-done",
}  # fmt: skip
# What reads of its first operand no more than it gives.
_PICKING = {"gather", "dynamic-slice", "slice"}
_TRANSPARENT = {"bitcast", "get-tuple-element", "copy-done"}


def moved_bytes(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Results written and operands read, each once. What lies in memory on the chip costs nothing.

    A gather, or a fusion that only gathers from an operand, reads as much as it takes. An update in place
    writes the part that it changes.
    """
    if instruction.opcode in FREE or instruction.target == "AllocateBuffer":
        return 0
    if instruction.opcode in ("copy-start", "async-start"):  # its results name operand and context once more
        source = _read(instruction, computation, program)
        return source + sum(array.bytes for array in instruction.results[:1] if array.space == DEVICE)
    return _read(instruction, computation, program) + _written(instruction, computation, program)


def _written(instruction: Instruction, computation: Computation, program: Program) -> int:
    if instruction.opcode == "dynamic-update-slice":
        return _update(instruction, computation)
    roots = [body.instructions.get(body.root) for body in program.fused(instruction)]
    bodies = zip(roots, program.fused(instruction), strict=True)
    updated = [_update(root, body) for root, body in bodies if root and root.opcode == "dynamic-update-slice"]
    if instruction.opcode == "fusion" and updated:
        return sum(updated)
    return sum(array.bytes for array in instruction.results if array.space == DEVICE)


def _update(instruction: Instruction, computation: Computation) -> int:
    return computation.operands(instruction)[1].bytes if len(instruction.operands) > 1 else instruction.bytes


def _read(instruction: Instruction, computation: Computation, program: Program) -> int:
    operands = computation.operands(instruction)
    if instruction.opcode in _PICKING:
        in_memory = _device_bytes(operands[0]) > 0
        return (instruction.bytes if in_memory else 0) + sum(map(_device_bytes, operands[1:]))
    if instruction.opcode == "dynamic-update-slice":
        return _update(instruction, computation)
    bodies = program.fused(instruction) if instruction.opcode == "fusion" else []
    parameters = bodies[0].parameters() if bodies else []
    if len(parameters) != len(operands):
        return sum(map(_device_bytes, operands))
    return sum(
        min(_device_bytes(operand), _picked(bodies[0], parameter.name))
        for operand, parameter in zip(operands, parameters, strict=True)
    )


def _picked(body: Computation, name: str) -> int:
    """Bytes of an operand that a fusion reads: what it picks of it, where it does nothing else with it."""
    users, whole = body.users[name], body.instructions[name].bytes
    total = 0
    for user in users:
        if user.opcode in _TRANSPARENT:
            total += _picked(body, user.name)
        elif user.opcode in _PICKING and user.operands[0] == name:
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            total += 0  # the rest stays as it is
        else:
            return whole
    return min(total, whole)


def _device_bytes(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.results if array.space == DEVICE)


def source(instruction: Instruction, computation: Computation) -> Instruction:
    """What an instruction's first operand names, through what only renames it."""
    while instruction.operands and instruction.opcode in _TRANSPARENT:
        instruction = computation.operands(instruction)[0]
    return instruction
