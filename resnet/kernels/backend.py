"""Decides which implementation of a function is used, by the backend and by what the caller asked for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_XLA_ALONE = contextvars.ContextVar("xla_alone", default=False)


@contextlib.contextmanager
def by_xla_alone() -> Iterator[None]:
    """What is traced within it has XLA's own operations on every backend: converters know no other."""
    token = _XLA_ALONE.set(True)
    try:
        yield
    finally:
        _XLA_ALONE.reset(token)


def on_cpu() -> bool:
    """Whether the CPU is the backend in use."""
    return jax.default_backend() == "cpu"


def written_for_cpu() -> bool:
    """Whether to use the forms written for the CPU: on the CPU, outside `by_xla_alone`."""
    return on_cpu() and not _XLA_ALONE.get()
