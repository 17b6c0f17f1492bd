"""Which part of a training step an instruction belongs to, and what kind of work it is."""

import re
from collections.abc import Iterator

from resnet.planning.program import Computation, Instruction, Program
from resnet.planning.traffic import source

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
KINDS = ("convolution", "norm", "pool", "matrix product", "other arithmetic", "copy", "collective")
DATA, FORWARD, BACKWARD, UPDATE = PHASES = ("data", "forward", "backward", "update")
_PART = re.compile(r"(?:/|\['?)(stem|stage\d+|head)(?:/|'?\]|$)")
_CONVOLUTIONS = ("__cudnn$conv", "convolution")
# The net's first operation of its own, which GPUs fuse with all that makes its images.
_IMAGES = re.compile(r"/jvp\(\w+\)/convert_element_type$")


def name_of(instruction: Instruction, computation: Computation) -> str:
    """Where an instruction comes from in the traced program; of a copy without a name, what it copies."""
    if instruction.op_name or not instruction.operands:
        return instruction.op_name
    operands = computation.operands(instruction)
    return source(operands[0], computation).op_name if operands else ""


def names_of_results(instruction: Instruction, computation: Computation) -> set[str]:
    """The names of an exchange: its own or, as GPUs unite several under none, those of what becomes of it."""
    if instruction.op_name:
        return {instruction.op_name}
    users = computation.users[instruction.name]
    return {name for user in users for name in names_of_results(user, computation)}


def phase(name: str) -> str:
    """One of PHASES: gather, normalise and augment; forward; backward; what becomes of gradients."""
    if "transpose(" in name:
        return BACKWARD
    if _IMAGES.search(name):
        return DATA
    if "jvp(" in name or _PART.search(name):
        return FORWARD
    return DATA if f"/{DATA}/" in name or name.startswith("batch.") else UPDATE


def part(name: str) -> str:
    """stem, stage1 …, head, loss; else the phase."""
    if found := _PART.search(name):
        return found[1]
    return "loss" if phase(name) in (FORWARD, BACKWARD) else phase(name)


def kind_of_work(instruction: Instruction, program: Program) -> str:
    """One of KINDS, by what an instruction fuses and by its name."""
    if collective(instruction):
        return "collective"
    opcodes = program.opcodes(instruction)
    if "convolution" in opcodes or any(word in instruction.target for word in _CONVOLUTIONS):
        # XLA makes convolutions of matrix products on TPU; those of the head are what they were.
        return "matrix product" if "dot_general" in instruction.op_name else "convolution"
    if opcodes & {"dot"} or "gemm" in instruction.target or "matmul" in instruction.target:
        return "matrix product"
    if opcodes & {"reduce-window", "select-and-scatter"} or "/max_pool" in instruction.op_name:
        return "pool"
    if opcodes <= {
        "concatenate",
        "copy",
        "copy-start",
        "transpose",
        "fusion",
        "parameter",
        "bitcast",
        "pad",
        "slice",
        "tuple",
    }:
        return "copy"
    return "norm" if re.search(r"/norm\d*/", instruction.op_name) else "other arithmetic"


def collective(instruction: Instruction) -> str:
    """The kind of exchange between devices that begins here; "" if it is none."""
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in COLLECTIVES else ""


def exchanges(instruction: Instruction, program: Program) -> Iterator[tuple[str, Instruction, str]]:
    """(kind, what gives its result, its channel) of each exchange that an instruction is, or fuses.

    The TPU's compiler fuses an exchange with each work that it goes on beside, so one channel comes several
    times, and an all-reduce with the choice of a part, which is a reduce-scatter. Others are given without
    their channel, as all of a GPU's have the same one.
    """
    if kind := collective(instruction):
        yield kind, instruction, ""
    for computation in program.fused(instruction) if instruction.opcode == "fusion" else ():
        for each in computation.instructions.values():
            if kind := collective(each):
                scatters = instruction.called[0].startswith("all-reduce-scatter")
                yield ("reduce-scatter", instruction, "") if scatters else (kind, each, _channel(each))


def _channel(instruction: Instruction) -> str:
    found = re.search(r"\bchannel_id=(\d+)", instruction.attributes)
    return found[1] if found else ""
