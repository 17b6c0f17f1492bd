"""Predictions of a run on image files: read as in evaluation, in batches, a few classes each."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from resnet.data.config import ON_BAD_IMAGE
from resnet.data.files.layout import SUFFIXES, say_what_is_ignored, visible
from resnet.data.images import BadImage
from resnet.errors import InputError, check_choice
from resnet.files import creating, local_path, save_png
from resnet.models.layers import OUTPUTS
from resnet.net import BATCH
from resnet.run import Run

TOP = 5  # classes shown unless asked otherwise


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the net says of one file: (class name, probability), the most probable first.

    Of a regression: (unit, value).
    """

    file: str
    classes: tuple[tuple[str, float], ...]


def find_images(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The file or files given, and all images under the folders given, sorted; InputError if there are none.

    Hidden files, and those in hidden folders, are no images. Other files under the folders that are none are
    told in the log.
    """
    found, ignored = [], []
    for path in map(local_path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            files = sorted(_files_in(path))
            images = [file for file in files if file.suffix.lower() in SUFFIXES]
            ignored += [file for file in files if file.suffix.lower() not in SUFFIXES]
            if not images:
                raise InputError(f"folder {path} holds no image ({', '.join(SUFFIXES)})")
            found += images
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"there is no image or folder {path}")
    if not found:
        raise InputError("name at least one image or folder")
    say_what_is_ignored(ignored)
    return found


def _files_in(folder: Path) -> Iterator[Path]:
    """What is visible in a folder and in those below it, but for folders; links are followed, as in training.

    InputError for a folder that cannot be read. A link that leads nowhere is named when it is read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"folder {error.filename} cannot be read ({error.strerror})")

    seen = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if visible(Path(name))]
        if (real := os.path.realpath(place)) in seen:  # a link led back to it
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in files if visible(Path(name)))


def predict_files(
    run: Run,
    files: Sequence[Path],
    *,
    top: int | None = None,
    on_bad_image: str = "error",
    progress: Callable[[int], None] = lambda n: None,
) -> list[Prediction]:
    """The `top` classes of each file, in order; calls `progress` with the number of files done.

    A file that cannot be read is an error or, with `on_bad_image` skip, named in the log and left out.
    """
    check_choice("--on_bad_image", on_bad_image, ON_BAD_IMAGE)
    classes = run.task.num_outputs
    top = min(TOP, classes) if top is None else top
    if not 1 <= top <= classes:
        raise InputError(f"`top` must be from 1 to {classes}, the outputs of the run's net; got {top}")
    if not files:
        raise InputError("name at least one image")
    predictions = []
    for done, part, images in _batches(run, files, skip=on_bad_image == "skip"):
        answers = _answers(run, run.logits(images)[: len(part)], top)
        predictions += [Prediction(str(file), answer) for file, answer in zip(part, answers, strict=True)]
        progress(done)
    if not predictions:
        raise InputError(f"none of {len(files)} images can be read")
    return predictions


def _batches(run: Run, files: Sequence[Path], skip: bool) -> Iterator[tuple[int, Sequence[Path], np.ndarray]]:
    """How many files are done after it, files, and their images, of which there are always as many.

    The last one is repeated, so that one program serves all.
    """
    size = min(BATCH, len(files))
    for start in range(0, len(files), size):
        read = [
            (file, image)
            for file in files[start : start + size]
            if (image := _read(run, file, skip)) is not None
        ]
        if not read:
            continue
        part, images = zip(*read, strict=True)
        rest = size - len(part)
        yield min(start + size, len(files)), part, np.stack([*images, *images[-1:] * rest])


def _read(run: Run, file: Path, skip: bool) -> UInt8[np.ndarray, "h w c"] | None:
    try:
        return run.net.read(file)
    except BadImage as error:
        if not skip:
            raise InputError(f"{error}, or leave such files out with --on_bad_image=skip") from None
        logging.warning("left out: %s", error)
        return None


def _answers(run: Run, logits: Float[np.ndarray, "n k"], top: int) -> list[tuple[tuple[str, float], ...]]:
    if run.task.kind == "regression":
        return [((run.task.unit, float(row[0]) * run.task.target_scale),) for row in logits]
    found = np.asarray(OUTPUTS[run.config.model.output](logits))
    order = np.argsort(-found, axis=1, kind="stable")[:, :top]
    # Outputs that squared error trains estimate probabilities, and may leave their range.
    probabilities = np.clip(found, 0, 1)
    names = run.task.class_names
    return [
        tuple((names[k], float(row[k])) for k in ks) for row, ks in zip(probabilities, order, strict=True)
    ]


def contact_sheet(run: Run, predictions: Sequence[Prediction], target: str | Path) -> None:
    """Draws the images as the net saw them, each under its first class and probability, as a PNG."""
    from matplotlib.figure import Figure

    columns = min(8, len(predictions))
    rows = -(-len(predictions) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in axes:
        panel.set_axis_off()
    for panel, prediction in zip(axes, predictions, strict=False):
        image = run.net.read(prediction.file)
        grey = image.shape[-1] == 1
        panel.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None)
        name, value = prediction.classes[0]
        regression = run.task.kind == "regression"
        panel.set_title(f"{value:.1f} {name}" if regression else f"{name} {value:.0%}", fontsize=8)
    with creating(target) as temporary:
        save_png(figure, temporary, dpi=120)
