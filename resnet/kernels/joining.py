"""Joins, in a traced program, convolutions to their norms, and norms to shortcuts and ReLUs.

On the CPU, our own convolution (native) can apply a scale, an offset and a ReLU, the end of a batch norm and
its activation, to its input while it reads it: the normalised input is not stored for the gradient to the
kernel. In prediction it can also apply scale, offset, shortcut and ReLU to its result while it writes it. In
training, norm, shortcut and ReLU become one pass over images, and so does the gradient to the input of a
norm behind a ReLU. `joined` finds these patterns in a traced program; nets are written without them.
"""

import collections
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun
from jax.sharding import Sharding
from jaxtyping import Array

from resnet.kernels.backend import xla_alone
from resnet.kernels.convolution import FORWARD, KERNEL_GRADIENT
from resnet.kernels.fused import JOINED_KERNEL_GRADIENT, MASKED_PROJECTIONS, OF_PARTS
from resnet.kernels.pending import (
    Combination,
    Convolution,
    Masked,
    OfParts,
    Positive,
    Sum,
    Zeros,
    array_of,
    is_images,
    is_zero,
    of_channels,
)

# Calls whose program is read as if it stood in their place, and the parameter that holds it.
CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "remat2": "jaxpr"}


def joined(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its convolutions joined to what is around them; results differ by rounding alone.

    Its derivatives are those of `function`, which are not joined. What they are taken to must be an argument.
    """

    @jax.custom_jvp
    def run(*arguments: Any) -> Any:
        return run_joined(jax.make_jaxpr(function, return_shape=True)(*arguments), arguments)

    run.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    return run


def run_joined(program: tuple[ClosedJaxpr, Any], arguments: tuple[Any, ...]) -> Any:
    """Runs a program that `jax.make_jaxpr(…, return_shape=True)` traced, and joins its convolutions.

    Rules for derivatives that the program holds are lost: it holds those that were asked for. Within
    `by_xla_alone` it stays as it is.
    """
    (closed, shapes), leaves = program, jax.tree.leaves(arguments)
    if xla_alone():
        results = jaxpr_as_fun(closed)(*leaves)
    else:
        results = map(array_of, _results(closed.jaxpr, closed.consts, leaves))
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _results(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Runs a program. Returns arrays, or what is pending."""
    values: dict[Var, Any] = {}
    readers = [*(each for equation in jaxpr.eqns for each in equation.invars), *jaxpr.outvars]
    times_read = collections.Counter(each for each in readers if isinstance(each, Var))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def write(variables: Sequence[Var], found: Sequence[Any]) -> None:
        for variable, value in zip(variables, found, strict=True):
            # A convolution or a sum that is read twice is computed once, as it is.
            once = isinstance(value, Convolution | Sum) and times_read[variable] > 1
            values[variable] = value.array if once else value

    write([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments])
    for equation in jaxpr.eqns:
        scope = str(equation.source_info.name_stack)
        with jax.named_scope(scope) if scope else contextlib.nullcontext(), equation.ctx.manager:
            write(equation.outvars, _of_equation(equation, [read(atom) for atom in equation.invars]))
    return [read(atom) for atom in jaxpr.outvars]


def _of_equation(equation: Any, operands: list[Any]) -> Sequence[Any]:
    """Runs one operation. Returns arrays, or what is pending."""
    primitive, params, name = equation.primitive, equation.params, equation.primitive.name
    if name in CALLS and not _stays(params):
        called = params[CALLS[name]]
        return _results(getattr(called, "jaxpr", called), getattr(called, "consts", ()), operands)
    if primitive is OF_PARTS:
        return [OfParts(array_of(operands[0]), **params)]
    found = _ending(name, operands) if name in ("mul", "add", "max") else _of_gradient(equation, operands)
    if found:
        return found
    if primitive in (FORWARD, KERNEL_GRADIENT) and isinstance(operands[0], Combination) and operands[0].whole:
        images, other = operands[0], array_of(operands[1])
        if primitive is FORWARD:
            return [Convolution(images, other, **params)]
        return [JOINED_KERNEL_GRADIENT.bind(images.x, other, *images.norm, **params)]
    arrays = [array_of(operand) for operand in operands]
    if primitive is FORWARD and arrays[0].dtype == jnp.float32:
        return [Convolution(*arrays, **params)]
    if name == "scan":
        params = params | {"jaxpr": _joined_program(params["jaxpr"])}
    results = primitive.bind(*arrays, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]


def _stays(params: dict[str, Any]) -> bool:
    """Whether a call stays as it is: what a gradient recomputes, and what says where its arrays are to be."""
    places = (*params.get("in_shardings", ()), *params.get("out_shardings", ()))
    return params.get("differentiated", False) or any(isinstance(each, Sharding) for each in places)


def _ending(name: str, operands: list[Any]) -> Sequence[Any]:
    """The pending result of an operation that joins one of its two operands; nothing if it joins neither."""
    orders = (operands, operands[::-1])
    for one, other in sorted(orders, key=lambda order: not isinstance(order[0], Convolution)):
        if isinstance(one, Convolution | Combination):
            found = one.ending_in(name, other)
            if found:
                return [found]
            continue
        images = isinstance(one, Masked) or is_images(one)
        values = of_channels(other, one.shape) if images and name == "mul" else None
        if values is not None:
            return [Combination(one, values)]
    return []


def _of_gradient(equation: Any, operands: list[Any]) -> Sequence[Any]:
    """The pending result of an operation in the gradient of a ReLU or a norm; nothing of other operations."""
    name, [first, *others] = equation.primitive.name, operands or [None]
    if name == "gt" and is_zero(others[0]) and (isinstance(first, Combination) or is_images(first)):
        # Behind a sum the result of the ReLU is kept, which is positive at the same places.
        summed = isinstance(first, Combination) and first.added is not None
        return [Positive(first.rectified.array if summed else first)]
    if name == "broadcast_in_dim" and is_zero(first):
        result = equation.outvars[0].aval
        return [Zeros(result.shape, result.dtype)]
    if name == "select_n" and isinstance(first, Positive) and isinstance(others[0], Zeros):
        given = others[1] if isinstance(others[1], Sum) else array_of(others[1])
        return [Masked(given, first)] if isinstance(given, Sum) or is_images(given) else []
    if name == "add_any" and all(is_images(array_of(each)) for each in operands):
        return [Sum(*map(array_of, operands))]
    if name == "projections" and isinstance(first, Masked):
        x, mean = map(array_of, others)
        g, *mask = first.by_norm_of(others[0])
        # A norm in parts has sums of the same parts.
        alike = bool(mask) and mask[0].shape == mean.shape
        return MASKED_PROJECTIONS.bind(g, x, mean, *mask) if alike else []
    return []


def _joined_program(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The body of a loop with its convolutions joined."""

    def body(*arrays: Array) -> list[Array]:
        return [array_of(value) for value in _results(closed.jaxpr, closed.consts, arrays)]

    return jax.make_jaxpr(body)(*closed.in_avals)
