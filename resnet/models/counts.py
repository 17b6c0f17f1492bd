"""Parameters and multiply-accumulates of a net, counted in the programs of its parts: nothing is computed."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr

from resnet.kernels.backend import by_xla_alone
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import FAMILIES, block_specs, kind
from resnet.models.resnet import Block, Head, Stem
from resnet.models.scanning import block_arrays
from resnet.models.shortcuts.table import SHORTCUTS, streams_of


@dataclasses.dataclass(frozen=True)
class PartCounts:
    """A part of the net: its name, shape of what leaves it, shortcut, parameters and multiply-accumulates."""

    name: str
    shape: tuple[int, ...]
    shortcut: str
    parameters: int
    macs: int


def count_parts(
    config: ModelConfig, num_outputs: int, image_shape: tuple[int, int, int]
) -> tuple[PartCounts, ...]:
    """Stem, blocks and head. Multiply-accumulates are of convolutions and linear layers, for one image."""
    # Initial values change no count, and kernels of zeros are traced in no time.
    net = dataclasses.replace(config, kernel_init="zero", gate_init="zero", zero_head=True)
    parts = [_part("stem", "", Stem(net, parent=None), image_shape)]
    any_net, stages = net, len(FAMILIES[config.family])
    if streams_of(config) is None:
        # What a block computes follows from its spec: nets of other depths and widths share its counts.
        any_net = dataclasses.replace(net, depth=0, blocks=(1,) * stages, width=1.0, stem_width=0)
    for spec in block_specs(config):
        block = Block(any_net, kind(spec), parent=None)
        parts.append(_part(spec.name, _shortcut(config, spec), block, parts[-1].shape))
    return (*parts, _part("head", "", Head(any_net, num_outputs, parent=None), parts[-1].shape))


def totals(parts: tuple[PartCounts, ...]) -> tuple[int, int]:
    """(parameters, multiply-accumulates) of all parts."""
    return sum(part.parameters for part in parts), sum(part.macs for part in parts)


def _shortcut(config: ModelConfig, spec: BlockSpec) -> str:
    """The block's shortcut, and its transition if it has one."""
    if spec.changes_shape and not SHORTCUTS[config.shortcut].changes_shape:
        return f"{config.transition} + {config.shortcut}"
    return config.shortcut


def _part(name: str, shortcut: str, module: Any, shape: tuple[int, ...]) -> PartCounts:
    """The counts of a part for one image of this shape."""
    shape, parameters, macs = _count(module, shape)
    return PartCounts(name, shape, shortcut, parameters, macs)


@functools.lru_cache(maxsize=4096)
def _count(module: nn.Module, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
    """(shape of what leaves a part, parameters, multiply-accumulates) for one image of this shape."""
    arguments: dict[str, Any] = {"train": False}
    if isinstance(module, Block):
        arguments["arrays"] = block_arrays(module.config, module.spec, key=None)
    if isinstance(module, Head):
        arguments["key"] = None
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    # XLA's operations alone, since ours on the CPU compute a grouped convolution as dense ones.
    with by_xla_alone():
        init = functools.partial(module.init_with_output, **arguments)
        program, (y, variables) = jax.make_jaxpr(init, return_shape=True)(jax.random.key(0), x)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return jax.tree.leaves(y)[0].shape[1:], parameters, _macs(program.jaxpr)


def _macs(program: Jaxpr) -> int:
    """Multiply-accumulates of the convolutions and products of matrices in a program."""
    total = 0
    for equation in program.eqns:
        out: Any = equation.outvars[0].aval
        operands: list[Any] = [variable.aval for variable in equation.invars]
        if equation.primitive.name == "conv_general_dilated":
            kernel, axes = operands[1], equation.params["dimension_numbers"].rhs_spec
            total += out.size * kernel.size // kernel.shape[axes[0]]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += out.size * math.prod(operands[0].shape[axis] for axis in contracted)
        else:
            turns = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += turns * sum(map(_macs, _programs(equation.params)))
    return total


def _programs(values: Any) -> Iterator[Jaxpr]:
    """The programs within an equation's parameters."""
    for value in jax.tree.leaves(values, is_leaf=lambda value: isinstance(value, ClosedJaxpr | Jaxpr)):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
