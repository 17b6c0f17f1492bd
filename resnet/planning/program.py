"""The text that XLA prints of a compiled program, read into instructions."""

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cached_property

# Bytes of an element. A predicate takes one byte, and so do the small floats.
BYTES = {
    "pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "bf16": 2,
    "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|(?:true|false)_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%[\w.-]+)"
)
_BODY, _CONDITION = (re.compile(rf"\b{role}=%([\w.-]+)") for role in ("body", "condition"))
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Where an array lies: the memory of the device, that of its host, or, of all others, the chip.
DEVICE, HOST = 0, 5


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """One array of an instruction's result."""

    dtype: str
    dims: tuple[int, ...]
    space: int
    """DEVICE, HOST, or a memory on the chip."""

    @property
    def bytes(self) -> int:
        """Without padding."""
        return math.prod(self.dims) * BYTES.get(self.dtype, 0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    opcode: str
    results: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    """Names of instructions of the same computation."""
    attributes: str
    """What stands behind the operands."""

    @cached_property
    def op_name(self) -> str:
        """The way through the traced program, such as "jit(train)/jvp(ResNet)/stage1/block1/conv1/…"."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1].replace("\\'", "'") if found else ""

    @cached_property
    def cycles(self) -> int:
        """The compiler's estimate; 0 where it makes none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0

    @cached_property
    def target(self) -> str:
        """Of a custom call, what is called."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        return tuple(name for group in _CALLED.findall(self.attributes) for name in _NAME.findall(group))

    @property
    def bytes(self) -> int:
        """Of all results."""
        return sum(array.bytes for array in self.results)


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they run."""

    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """The instructions that an instruction reads."""
        return [self.instructions[name] for name in instruction.operands if name in self.instructions]

    def parameters(self) -> list[Instruction]:
        """In the order of the arguments."""
        found = [each for each in self.instructions.values() if each.opcode == "parameter"]
        return sorted(found, key=lambda each: int(re.match(r"\d+", each.attributes or "0")[0]))  # type: ignore[index]

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """By the name of an instruction, those that read it."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for each in self.instructions.values():
            for name in dict.fromkeys(each.operands):
                found.get(name, []).append(each)
        return found


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a module."""

    computations: dict[str, Computation]
    entry: str

    def scheduled(self) -> Iterator[tuple[Instruction, Computation, int]]:
        """(instruction, its computation, how often it runs) of all that the device runs one by one.

        Bodies of loops and branches are gone into; computations that one kernel fuses are not.
        """
        yield from self._within(self.entry, 1)

    def _within(self, name: str, times: int) -> Iterator[tuple[Instruction, Computation, int]]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                body = _BODY.search(instruction.attributes)
                if body and body[1] in self.computations:
                    yield from self._within(body[1], times * self.turns(instruction))
            elif instruction.opcode in ("call", "conditional"):
                for called in instruction.called:
                    if called in self.computations:
                        yield from self._within(called, times)
            else:
                yield instruction, computation, times

    def turns(self, loop: Instruction) -> int:
        """How often the body of a loop runs; 1 where that cannot be told.

        A GPU's compiler says it. A TPU's leaves it to the condition, in which JAX's loops count from zero.
        """
        if found := _TURNS.search(loop.attributes):
            return int(found[1])
        condition = _CONDITION.search(loop.attributes)
        if not condition or condition[1] not in self.computations:
            return 1
        computation = self.computations[condition[1]]
        end = computation.instructions[computation.root]
        if end.opcode != "compare" or "direction=LT" not in end.attributes:
            return 1
        limits = [each.attributes for each in computation.operands(end) if each.opcode == "constant"]
        found = re.match(r"\d+", limits[0]) if limits else None
        return int(found[0]) if found else 1

    def fused(self, instruction: Instruction) -> list[Computation]:
        """The computations within an instruction."""
        return [self.computations[name] for name in instruction.called if name in self.computations]

    def opcodes(self, instruction: Instruction) -> set[str]:
        """Its own, and those of what it fuses, at any depth."""
        found = {instruction.opcode}
        for computation in self.fused(instruction):
            for each in computation.instructions.values():
                found |= self.opcodes(each)
        return found


def read_program(text: str) -> Program:
    """Reads the text of a compiled program; ValueError if it has no entry computation."""
    computations, entry = {}, ""
    name, instructions, root = "", {}, ""
    for line in text.splitlines():
        if not line.startswith(" ") and line.endswith("{") and "->" in line:
            head = line.removeprefix("ENTRY ")
            name, instructions, root = _name_of(head), {}, ""
            entry = name if line.startswith("ENTRY ") else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(instructions, root)
            name = ""
        elif name and " = " in line:
            instruction = _instruction(line)
            instructions[instruction.name] = instruction
            root = instruction.name if line.lstrip().startswith("ROOT ") else root
    if not entry:
        raise ValueError("the text holds no entry computation: is it that of a compiled program?")
    return Program(computations, entry)


def _name_of(text: str) -> str:
    found = re.match(r"%?([\w.-]+)", text)
    return found[1] if found else ""


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(right) if right.startswith("(") else right.index(" ")
    shape, rest = right[:end], right[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = len(opcode) + _closing(rest[len(opcode) :])
    inside, attributes = rest[len(opcode) + 1 : close - 1], rest[close:].lstrip(", ")
    if opcode in ("parameter", "constant"):
        return Instruction(_name_of(left), opcode, _arrays(shape), (), f"{inside}, {attributes}")
    return Instruction(_name_of(left), opcode, _arrays(shape), tuple(_NAME.findall(inside)), attributes)


def _closing(text: str) -> int:
    """Where the parenthesis that `text` begins with is closed: the place behind it."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place + 1
    return len(text)


def _arrays(shape: str) -> tuple[ArrayShape, ...]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = _SPACE.search(layout)
        sides = tuple(int(side) for side in dims.split(",") if side)
        found.append(ArrayShape(dtype, sides, int(space[1]) if space else DEVICE))
    return tuple(found)
