"""Residual image classifiers for research, in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet.run import Run


def load(workdir: Any, step: int | None = None) -> "Run":
    """The run in `workdir`: config, task, model, variables, and `logits(images)`."""
    # Imported here: every module of the package passes through this file, most need no run.
    from resnet.run import load

    return load(workdir, step)
