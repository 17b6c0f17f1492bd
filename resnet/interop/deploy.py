"""A run as a program that needs none of our code, and a card that says what is in it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.config import config_to_dict
from resnet.errors import InputError, check_choice
from resnet.interop import onnx
from resnet.run import Run
from resnet.training.member import RESULT
from resnet.training.steps import predict
from resnet.weights.files import replacing

CARD, CLASSES = "MODEL_CARD.md", "classes.txt"
# One program serves all three; ours is traced for the backend at hand, which the others can run too.
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of program: its file, how it is made (with what there is to say of it), how it is called."""

    file: str
    make: Callable[[Run], tuple[bytes, dict[str, Any]]]
    usage: str


def export(run: Run, folder: str | Path, format: str = "stablehlo", licence: str = "") -> dict[str, Any]:
    """Writes a new folder: program, class names and card; what was done.

    The program takes raw uint8 images (n, height, width, channels), any n, and gives logits (n, outputs),
    normalisation included.
    """
    check_choice("--format", format, FORMATS)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; choose a new folder")
    with replacing(folder) as temporary:  # first, so that a folder that cannot be written costs no time
        temporary.mkdir()
        program, about = FORMATS[format].make(run)
        (temporary / FORMATS[format].file).write_bytes(program)
        (temporary / CARD).write_text(model_card(run, format, licence))
        (temporary / CLASSES).write_text("".join(f"{name}\n" for name in run.task.class_names))
    return {"folder": str(folder), "format": format, "bytes": len(program), **about, "step": run.step}


def _stablehlo(run: Run) -> tuple[bytes, dict[str, Any]]:
    """The run's prediction, weights inside, serialised by jax.export for batches of any size."""
    variables = jax.device_get(run.variables)

    def logits(images):
        return predict(jax.tree.map(jnp.asarray, variables), images, model=run.model, task=run.task)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *run.task.image_shape), np.uint8)
    exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(images)
    return bytes(exported.serialize()), {"platforms": list(PLATFORMS)}


def _onnx(run: Run) -> tuple[bytes, dict[str, Any]]:
    program, difference = onnx.convert(run)
    return program, {"opset": onnx.OPSET, "difference": difference}


FORMATS = {
    "stablehlo": Format(
        "model.stablehlo",
        _stablehlo,
        """from jax import export

program = export.deserialize(open("model.stablehlo", "rb").read())
logits = program.call(images)""",
    ),
    "onnx": Format(
        "model.onnx",
        _onnx,
        f"""import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["{onnx.OUTPUT}"], {{"{onnx.INPUT}": images}})""",
    ),
}


def model_card(run: Run, format: str, licence: str = "") -> str:
    """What a stranger must know of the weights, and how to call the program."""
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
        f"`{FORMATS[format].file}` takes uint8 images (n, {height}, {width}, {channels}), 0 to 255, "
        "any n, and gives logits:",
        "",
        "```python",
        FORMATS[format].usage,
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
