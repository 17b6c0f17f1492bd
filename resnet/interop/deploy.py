"""A run as one file that needs none of our code: StableHLO, and a card that says what is in it."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.config import config_to_dict
from resnet.errors import InputError
from resnet.interop.files import replacing
from resnet.run import Run
from resnet.training.member import RESULT
from resnet.training.steps import predict

PROGRAM, CARD, CLASSES = "model.stablehlo", "MODEL_CARD.md", "classes.txt"
# One program serves all three; ours is traced for the backend at hand, which the others can run too.
PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(run: Run, folder: str | Path, licence: str = "") -> dict[str, Any]:
    """Writes a new folder: program, class names and card; what was done.

    The program takes raw uint8 images (n, height, width, channels), any n, and gives logits (n, outputs),
    normalisation included. Read it with jax.export.deserialize.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; choose a new folder")
    program = serialize(run)
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / PROGRAM).write_bytes(program)
        (temporary / CARD).write_text(model_card(run, licence))
        (temporary / CLASSES).write_text("".join(f"{name}\n" for name in run.task.class_names))
    return {"folder": str(folder), "bytes": len(program), "platforms": list(PLATFORMS), "step": run.step}


def serialize(run: Run) -> bytes:
    """The run's prediction, weights inside, as a serialised program for batches of any size."""
    variables = jax.device_get(run.variables)

    def logits(images):
        return predict(jax.tree.map(jnp.asarray, variables), images, model=run.model, task=run.task)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *run.task.image_shape), np.uint8)
    return bytes(jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize())


def model_card(run: Run, licence: str = "") -> str:
    """What a stranger must know of the weights."""
    config, task = config_to_dict(run.config), run.task
    height, width, channels = task.image_shape
    path = run.workdir / RESULT
    result = json.loads(path.read_text()) if path.is_file() else {}
    wanted = ("split", "top1", "top5", "mae", "loss", "n")
    metrics = {name: result[name] for name in wanted if name in result and result.get("step") == run.step}
    weights = sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"]))
    lines = [
        "# Model card",
        "",
        f"- Net: {run.config.model.family} family, {weights:,} parameters, weights of step {run.step}",
        f"- Task: {task.kind} of images of {width}x{height} pixels, {channels} channels, "
        + (f"{len(task.class_names)} classes ({CLASSES})" if task.class_names else f"in {task.unit}"),
        f"- Trained on: {run.config.data.name}",
        f"- Metrics: {json.dumps(metrics) if metrics else 'none recorded for this step'}",
        f"- Licence: {licence or 'not stated; set it before passing the weights on'}",
        "",
        f"`{PROGRAM}` takes uint8 images (n, {height}, {width}, {channels}), 0 to 255, and gives logits:",
        "",
        "```python",
        "from jax import export",
        "",
        f'program = export.deserialize(open("{PROGRAM}", "rb").read())',
        "logits = program.call(images)",
        "```",
        "",
        "The config that it was trained with:",
        "",
        "```json",
        json.dumps(
            {name: config[name] for name in ("data", "model", "optimizer", "schedule", "train")}, indent=1
        ),
        "```",
    ]
    return "\n".join(lines) + "\n"
