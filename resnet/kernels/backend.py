"""Which implementation of a function is used: that of the platform that a program is lowered for.

Nothing asks at trace time which backend is in use, so that a program can be compiled for another machine,
and exported for several platforms. `by_platform` makes a primitive, whose derivatives are ours to write;
where JAX's own serve, `lax.platform_dependent` does: XLA drops other platforms' branches.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

# JAX traces a jitted function anew where this has another value.
_XLA_ALONE = jax.make_user_context(False)


@contextlib.contextmanager
def by_xla_alone() -> Iterator[None]:
    """What is called within it has XLA's own operations on every platform: converters know no other."""
    with _XLA_ALONE(True):
        yield


def xla_alone() -> bool:
    """Whether `by_xla_alone` is entered."""
    return _XLA_ALONE.value


def by_platform(
    name: str,
    shapes: Callable[..., ShapedArray | Sequence[ShapedArray]],
    *,
    cpu: Callable[..., Any],
    elsewhere: Callable[..., Any],
    static: tuple[str, ...] = (),
    several: bool = False,
) -> Primitive:
    """A primitive that is lowered as `cpu(*arrays, **static)` for the CPU, and else as `elsewhere`.

    `shapes`, called in the same way, gives the shape and type of the result, or of `several` results.
    `static` names the keywords. `vmap` maps `elsewhere`, on every platform, unless the caller registers
    another batching rule. Derivatives are left to the caller. In a `jax.shard_map` that keeps account of the
    axes over which arrays vary, tracing it raises NotImplementedError: gradients would be those of a share.
    """

    def typed(*arrays: ShapedArray, **static: Any) -> ShapedArray | Sequence[ShapedArray]:
        if any(_varies(array) for array in arrays):
            raise NotImplementedError(f"{name} is for a jax.shard_map that is given check_vma=False")
        return shapes(*arrays, **static)

    def batched(arrays: Sequence[Array], axes: Sequence[int | None], **static: Any) -> tuple[Any, Any]:
        found = jax.vmap(functools.partial(elsewhere, **static), axes)(*arrays)
        return found, (0,) * len(found) if several else 0

    primitive = Primitive(name)
    primitive.multiple_results = several
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=static))
    primitive.def_abstract_eval(typed)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=several))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=several), platform="cpu")
    return primitive


def _varies(array: ShapedArray) -> bool:
    """Whether JAX knows that devices have different values of an array."""
    return bool(array.manual_axis_type.varying)


def computed_once(*arrays: Array) -> Any:
    """The same arrays. On a GPU, XLA does not compute them anew where they are used.

    Without this, it recomputes numbers of channels for every pixel, and then rejects a fusion that would save
    a whole array; and it recomputes a sum of images, which reads both addends. A TPU gains nothing by it.
    """
    if xla_alone():
        return arrays
    return lax.platform_dependent(*arrays, cpu=_same, tpu=_same, default=_barred)


def _same(*arrays: Array) -> Any:
    return arrays


def _barred(*arrays: Array) -> Any:
    return lax.optimization_barrier(arrays)


def each_image(function: Callable, *arguments: Any) -> Array:
    """The results of `function` for each entry of the leading axis of the arguments.

    The CPU takes image by image, and of a `lax.switch` in the function only the branch that an image needs.
    An accelerator takes all images, and all branches, at once.
    """
    if xla_alone():
        return _together(function, *arguments)
    one_by_one, together = (functools.partial(each, function) for each in (_one_by_one, _together))
    return lax.platform_dependent(*arguments, cpu=one_by_one, default=together)


def _one_by_one(function: Callable, *arguments: Any) -> Array:
    return lax.map(lambda entry: function(*entry), arguments)


def _together(function: Callable, *arguments: Any) -> Array:
    return jax.vmap(function)(*arguments)
