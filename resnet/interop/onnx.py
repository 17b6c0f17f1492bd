"""A run as an ONNX program, converted by jax2onnx and returned only if onnxruntime finds the same logits."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging as absl_logging

from resnet.errors import InputError, check_installed
from resnet.kernels.backend import by_xla_alone
from resnet.models.resnet import make_model
from resnet.run import Run
from resnet.training.evaluation import predict

INPUT, OUTPUT = "images", "logits"
OPSET = 21  # the oldest that jax2onnx writes all of our operations in; read since onnxruntime 1.18
WANTED, ALLOWED = 1e-5, 1e-4  # difference of a logit, over the largest or 1
# Of all nets tried only BiT-50 with its first values exceeds WANTED: 1.3e-5 at 128 pixels. That is rounding:
# ours is 1.0e-5 from float64, PyTorch's float32 0.9e-5. With norm scales of trained nets it is 0.07e-5.
CHECKED = (1, 3)  # batches of two sizes, so that neither has become a constant of the program


def check_converter() -> None:
    """Raises InputError, with the remedy, where the converter is not installed: it is an extra."""
    remedy = "pip install -r requirements-export.txt, then pip install --no-deps jax2onnx==0.17.1"
    check_installed(("onnx", "onnxruntime", "onnx_ir", "jax2onnx"), remedy)


def convert(run: Run) -> tuple[bytes, float]:
    """(ONNX program, largest difference of a logit from the run's own program); the weights are inside.

    It takes raw uint8 images [n, h, w, c], n at least 1, and computes in float32, whatever the run does.
    InputError if onnxruntime does not find the logits of our net in float32.
    """
    check_converter()
    import jax2onnx

    # Blocks one by one in float32, which every ONNX runtime knows; the variables are the same.
    config = dataclasses.replace(run.config.model, dtype="float32", scan_blocks=False, remat=False)
    model = make_model(config, run.task.num_outputs)
    logits = functools.partial(predict, run.variables, model=model, task=run.task, flip=run.net.flip)
    images = jax.ShapeDtypeStruct(("batch", *run.net.evaluated_shape), np.uint8)  # type: ignore[arg-type]
    with _quiet(), by_xla_alone():
        try:
            proto = jax2onnx.to_onnx(
                logits, [images], opset=OPSET, input_names=[INPUT], output_names=[OUTPUT]
            )
        except Exception as error:  # Whatever a net that it cannot write makes the converter raise.
            reason = (str(error).splitlines() or [""])[0][:160]
            raise InputError(
                f"jax2onnx cannot convert this net ({type(error).__name__}: {reason}); use --format=stablehlo"
            ) from None
    program = proto.SerializeToString()  # type: ignore[union-attr]
    # The first says whether the program was converted right, the second what it is to those who have the run.
    converted, own = _differences(program, run.net.evaluated_shape, (jax.jit(logits), run.logits))
    if not converted <= ALLOWED:
        raise InputError(
            f"onnxruntime gives other logits, by {converted:.1e} (bound {ALLOWED}): nothing is written; "
            "use --format=stablehlo"
        )
    if converted > WANTED:
        absl_logging.warning("onnxruntime's logits differ by %.1e (wanted: %g)", converted, WANTED)
    return program, own


def _differences(
    program: bytes, image_shape: tuple[int, ...], nets: Sequence[Callable[[np.ndarray], Any]]
) -> list[float]:
    """Largest difference of a logit from each of the nets on random images, over its largest or 1."""
    import onnxruntime

    random, largest = np.random.default_rng(0), [0.0] * len(nets)
    try:
        session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
        for n in CHECKED:
            images = random.integers(0, 256, (n, *image_shape), np.uint8)
            (found,) = session.run([OUTPUT], {INPUT: images})
            for i, net in enumerate(nets):
                expected = np.asarray(net(images), np.float32)
                difference = float(np.max(np.abs(np.asarray(found) - expected)))
                largest[i] = max(largest[i], difference / max(1.0, float(np.max(np.abs(expected)))))
    except Exception as error:  # onnxruntime raises types of its own
        reason = (str(error).splitlines() or [""])[0][:160]
        raise InputError(
            f"onnxruntime cannot run the converted net ({reason}); use --format=stablehlo"
        ) from None
    return largest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what jax2onnx says of the libraries that its own examples miss."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
