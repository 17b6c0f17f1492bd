"""Bytes that an instruction moves between a device's memory and its processors."""

from resnet.planning.program import DEVICE, ArrayShape, Computation, Instruction, Program

# Names for what is there already, and what is counted by its own instructions.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "add-dependency", "opt-barrier", "while", "call", "conditional", "iota",
}  # fmt: skip
# What reads of its first operand no more than it gives.
_PICKING = {"gather", "dynamic-slice", "slice"}
_TRANSPARENT = {"bitcast", "get-tuple-element", "copy-done"}


def moves_nothing(instruction: Instruction) -> bool:
    """Whether an instruction moves no bytes: it renames an array, or ends what its start counts."""
    names = instruction.opcode in _FREE or instruction.target == "AllocateBuffer"
    return names or instruction.opcode.endswith(("-done", "-update"))


def made(instruction: Instruction, computation: Computation) -> tuple[ArrayShape, ...]:
    """Lists the results of an instruction. Those that repeat an operand are left out."""
    if instruction.opcode == "copy-start":  # result, operand, context
        return instruction.results[:1]
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        return instruction.results[len(computation.operands(instruction)) :]  # operands, results, contexts
    return instruction.results


def moved_bytes(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Results written and operands read, each once. What lies in memory on the chip costs nothing.

    A gather or a slice, or a fusion that only picks from an operand, reads as much as it takes. An update in
    place writes the part that it changes.
    """
    if moves_nothing(instruction):
        return 0
    return _read(instruction, computation, program) + _written(instruction, computation, program)


def _written(instruction: Instruction, computation: Computation, program: Program) -> int:
    if instruction.opcode == "dynamic-update-slice":
        return _update(instruction, computation)
    roots = [body.instructions.get(body.root) for body in program.fused(instruction)]
    bodies = zip(roots, program.fused(instruction), strict=True)
    updated = [_update(root, body) for root, body in bodies if root and root.opcode == "dynamic-update-slice"]
    if instruction.opcode == "fusion" and updated:
        return sum(updated)
    return sum(array.bytes for array in made(instruction, computation) if array.space == DEVICE)


def _update(instruction: Instruction, computation: Computation) -> int:
    return computation.operands(instruction)[1].bytes if len(instruction.operands) > 1 else instruction.bytes


def _read(instruction: Instruction, computation: Computation, program: Program) -> int:
    operands = computation.operands(instruction)
    if instruction.opcode.removesuffix("-start") in _PICKING:
        picked = made(instruction, computation)[0].bytes if _device_bytes(operands[0]) else 0
        return picked + sum(map(_device_bytes, operands[1:]))
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
