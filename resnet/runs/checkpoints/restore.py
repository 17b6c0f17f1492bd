"""The weights of a run, read back from its folder."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet.config import Config, load_saved_config
from resnet.errors import InputError
from resnet.files import local_path
from resnet.models.resnet import make_model
from resnet.runs.checkpoints import checkpoint
from resnet.runs.task import Task, load_task
from resnet.runtime.devices import make_mesh, replicated
from resnet.training.start import variables_shapes


def variable_shapes(config: Config, task: Task) -> dict[str, Any]:
    """Shapes of {"params", "batch_stats"} of the config's net for a task."""
    model = make_model(config.model, task.num_outputs)
    return variables_shapes(model=model, image_shape=task.image_shape)


def load_variables(workdir: str | Path, step: int | None = None) -> tuple[Config, Task, dict[str, Any], int]:
    """(config, task, {"params", "batch_stats"}, step) at `step`, or at the latest that can be read.

    The variables are the moving average if the run kept one.
    """
    workdir = local_path(workdir)
    config, task = load_saved_config(workdir), load_task(workdir)
    shapes = variable_shapes(config, task)
    # The optimiser's state is not read, so that weights can be loaded without the optimiser.
    target = {"step": jax.ShapeDtypeStruct((), np.int32)}
    target |= {"ema": shapes} if config.train.ema else shapes
    target = replicated(target, make_mesh())
    if step is None:
        restored = checkpoint.restore_latest(workdir, target)
    else:
        restored = checkpoint.restore(workdir, step, target)
    if restored is None:
        raise InputError(f"{workdir} has no checkpoint yet")
    state = restored[0]
    variables = state.get("ema") or {name: state[name] for name in ("params", "batch_stats")}
    return config, task, variables, int(state["step"])
