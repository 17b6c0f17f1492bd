"""The first variables and optimiser's state: traced once, then run operation by operation.

Nothing is compiled for a net as a whole, so that the bits of a parameter depend on its path and shape alone,
and a deep net starts as quickly as a shallow one.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array

from resnet.data.streams import INIT, random_key


def init_variables(key: Array, *, model: Any, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Initial {"params", "batch_stats"} of a model; not for `jit`."""
    program, structure = _traced_variables(model, image_shape, jax.ShapeDtypeStruct(key.shape, key.dtype))
    return _variables(structure, _run(program, [key]))


def variables_shapes(*, model: Any, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Shapes of the initial variables; draws none of them."""
    program, structure = _traced_variables(model, image_shape, jax.eval_shape(lambda: random_key(0, INIT)))
    return _variables(structure, [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in program.out_avals])


def _variables(structure: Any, leaves: Sequence[Any]) -> dict[str, Any]:
    variables = jax.tree.unflatten(structure, leaves)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def init_optimizer(init: Callable[[Any], Any], params: Any) -> Any:
    """The first state of an optimiser: what its `init` returns for the parameters. Not for `jit`."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    program, state = jax.make_jaxpr(init, return_shape=True)(shapes)
    return jax.tree.unflatten(jax.tree.structure(state), _run(program, jax.tree.leaves(params)))


@lru_cache(maxsize=8)
def _traced_variables(
    model: Any, image_shape: tuple[int, ...], key: jax.ShapeDtypeStruct
) -> tuple[ClosedJaxpr, Any]:
    """Traces `model.init`; returns (program, structure): the program's results are the variables' leaves.

    Draws and constants are all that it computes: the net itself, traced for its shapes, is left out.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = partial(model.init, train=False)
    traced, shapes = jax.make_jaxpr(init, return_shape=True)(key, images)
    program, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.out_avals), instantiate=[True, False])
    return ClosedJaxpr(program, traced.consts), jax.tree.structure(shapes)


def _broadcast(x: np.ndarray, shape: tuple[int, ...], broadcast_dimensions: Sequence[int], **_: Any) -> Any:
    sides = dict(zip(broadcast_dimensions, x.shape, strict=True))
    return np.broadcast_to(x.reshape([sides.get(axis, 1) for axis in range(len(shape))]), shape)


# What NumPy computes to the same bits as XLA, which would compile each anew for every shape of a net.
_BY_NUMPY = {
    "broadcast_in_dim": _broadcast,
    "mul": lambda x, y, **_: np.multiply(x, y),
    "reshape": lambda x, new_sizes, **_: x.reshape(new_sizes),
}


def _run(program: ClosedJaxpr, arguments: Sequence[Any]) -> list[Array]:
    """Runs a traced program; returns copies of its results, of which no two share memory."""
    jaxpr = program.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _results(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [_copy(read(atom)) for atom in jaxpr.outvars]


def _copy(array: Any) -> Array:
    # By NumPy: JAX would compile a copy for every shape.
    return array if isinstance(array, Tracer) else jax.device_put(np.array(array))


def _results(equation: Any, operands: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    by_numpy = _BY_NUMPY.get(primitive.name)
    # A random key is of no type that NumPy knows; a tracer stands for values that are not there yet.
    known = all(isinstance(each.dtype, np.dtype) and not isinstance(each, Tracer) for each in operands)
    if by_numpy and known:
        return [by_numpy(*map(np.asarray, operands), **params)]
    results = primitive.bind(*operands, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]
