"""Residual image classifiers for research, in JAX and Flax. `resnet.load(workdir)` reads a run back."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet.run import load as load


def __getattr__(name: str) -> Any:
    """Imports `load` when it is asked for: every module of the package passes through this file."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resnet.run import load

    return load
