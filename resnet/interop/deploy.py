"""A run as a program that needs none of our code."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resnet.errors import InputError, check_choice
from resnet.files import creating, local_path
from resnet.interop import onnx
from resnet.interop.card import CARD, model_card
from resnet.kernels.backend import by_xla_alone
from resnet.run import Run
from resnet.training.evaluation import predict

CLASSES = "classes.txt"
# One program serves all three.
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of program: its file, how it is made (with what there is to say of it), how it is called."""

    file: str
    make: Callable[[Run], tuple[bytes, dict[str, Any]]]
    usage: str


def export(run: Run, folder: str | Path, format: str = "stablehlo", licence: str = "") -> dict[str, Any]:
    """Writes a new folder: program, class names and card; what was done.

    The program takes raw uint8 images (n, height, width, channels), n at least 1, and gives logits
    (n, outputs), normalisation included.
    """
    check_choice("--format", format, FORMATS)
    folder = local_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; choose a new folder")
    with creating(folder) as temporary:  # first, so that a folder that cannot be written costs no time
        temporary.mkdir()
        program, about = FORMATS[format].make(run)
        (temporary / FORMATS[format].file).write_bytes(program)
        (temporary / CARD).write_text(_card(run, format, licence, about), "utf-8")
        (temporary / CLASSES).write_text("".join(f"{name}\n" for name in run.task.class_names), "utf-8")
    return {"folder": str(folder), "format": format, "bytes": len(program), **about, "step": run.step}


def _card(run: Run, format: str, licence: str, about: dict[str, Any]) -> str:
    (height, width, channels), task = run.net.evaluated_shape, run.task
    answer = f"its answer in {task.unit} over {task.target_scale}"
    meaning = f"logits, one a line of `{CLASSES}`" if task.class_names else answer
    call = (
        f"`{FORMATS[format].file}` takes uint8 images (n, {height}, {width}, {channels}), 0 to 255, n at "
        f"least 1, normalises them, and gives {meaning}"
    )
    if run.net.flip:
        call += ", the mean of those of each image and of its mirror image"
    if "difference" in about:
        call += (
            f". It computes in float32; its logits differ from those of the run, which computes in "
            f"{run.model.config.dtype}, by at most {about['difference']:.1e} of the largest, or of 1, on "
            "random images"
        )
    call += ":"
    return model_card(run, call, FORMATS[format].usage, licence)


def _stablehlo(run: Run) -> tuple[bytes, dict[str, Any]]:
    """The run's prediction, weights inside, serialised by jax.export for batches of one image or more."""
    variables = jax.device_get(run.variables)

    def logits(images):
        arrays = jax.tree.map(jnp.asarray, variables)
        return predict(arrays, images, model=run.model, task=run.task, flip=run.net.flip)

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *run.net.evaluated_shape), np.uint8)
    with by_xla_alone():
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
