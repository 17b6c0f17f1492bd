"""Which implementation of a function serves: the backend in use, and what was asked for, decide."""

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
    """Whether what was written for the CPU serves: not on accelerators, and not within `by_xla_alone`."""
    return on_cpu() and not _XLA_ALONE.get()
