"""Residual image classifiers for research, in JAX and Flax.

`resnet.make(name)` makes a published net, with or without weights; `resnet.load(workdir)` reads a run back.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet.interop.pretrained import make as make
    from resnet.run import load as load


def __getattr__(name: str) -> Any:
    """Imports a function when it is asked for: every module of the package passes through this file."""
    if name == "make":
        from resnet.interop.pretrained import make

        return make
    if name == "load":
        from resnet.run import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
