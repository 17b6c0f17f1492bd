"""ImageNet's other test sets, each by the protocol that its authors published, on files that the user has.

- ImageNetV2 (Recht 2019, https://arxiv.org/abs/1902.10811): folders 0 to 999, which are numbers of classes.
- ReaL (Beyer 2020, https://arxiv.org/abs/2006.07159): the validation images, with all labels that fit each.
- ImageNet-C (Hendrycks 2019, https://arxiv.org/abs/1903.12261): images corrupted in fifteen ways, at five
  severities each, which are not resized; the mean of the errors, each over that of AlexNet.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.data.batches import padded_batches
from resnet.data.config import DataConfig
from resnet.data.datasets import folder_of
from resnet.data.files.decoders import check_decoder_installed
from resnet.data.files.delivery import Pace
from resnet.data.files.layout import find_listings, list_place
from resnet.data.files.listing import Listing
from resnet.data.files.stream import BadImages, Sizes, StreamSplit
from resnet.errors import InputError, check_choice
from resnet.run import Run, make_evaluator, normalized_as
from resnet.training.evaluation import images_at_once, make_predict

CLASSES = 1000
WNID = re.compile(r"n\d{8}")
NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
REAL = "real.json"  # https://github.com/google-research/reassessed-imagenet
SIDE = 224  # of the published images of ImageNet-C
SEVERITIES = ("1", "2", "3", "4", "5")
# AlexNet's error, the mean over the severities: https://github.com/hendrycks/robustness, its table of mCE.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def evaluate_on(run: Run, name: str, data: DataConfig, pace: Pace) -> dict[str, Any]:
    """Metrics of a run's weights on the test set `name` in `data.dir`; `data` says how images are read."""
    check_choice("--data", name, SETS)
    check_decoder_installed(data.decoder)
    if not data.dir:
        raise InputError(f"`data.dir` must name the folder of {name}; got ''")
    if run.task.num_outputs != CLASSES or run.task.kind != "classification":
        raise InputError(
            f"--data={name} is for nets of ImageNet's {CLASSES} classes; the run in {run.workdir} has a "
            f"{run.task.kind} of {run.task.num_outputs}"
        )
    if data.classes:
        raise InputError(
            f"`data.classes` must be empty with --data={name}, which is evaluated on all of its images; "
            f"got {data.classes!r}"
        )
    if SETS[name] is not imagenet_c and not data.sizes.evaluate:  # whose images have one size
        raise InputError(f"`data.image_size` must be given with --data={name}; got 0")
    return {"data": name, **SETS[name](run, folder_of(data), data, pace), "step": run.step}


def imagenet_v2(run: Run, root: Path, data: DataConfig, pace: Pace) -> dict[str, Any]:
    """Loss, top1 and top5 on a version of ImageNetV2, such as imagenetv2-matched-frequency-format-val."""
    listing = list_place(root, "test")
    if set(listing.classes) != _numbers():
        raise InputError(f"{root} must hold ImageNetV2's folders 0 to {CLASSES - 1}; it has {_few(listing)}")
    split = _split(run, listing, data.sizes, data)
    return make_evaluator(run, data, pace)(split) | _skipped(split)


def imagenet_real(run: Run, root: Path, data: DataConfig, pace: Pace) -> dict[str, Any]:
    """The share of validation images whose first class is among their labels in real.json.

    Images without any are left out; "n" is the number of the others.
    """
    listing = find_listings(root, "validation", alone=True)["validation"]
    lists = _read_lists(root / REAL)
    split = _split(run, listing, data.sizes, data)
    accepted = [lists[_number(listing, row, len(lists)) - 1] for row in range(len(listing))]
    order = _standard_order(run.task.class_names)
    predict = make_predict(model=run.model, task=normalized_as(run, data), flip=data.eval_flip)
    right = []
    for i, (images, _, mask) in enumerate(padded_batches(split, images_at_once(run.config.train, 1), pace)):
        best = order[np.asarray(predict(run.variables, images)).argmax(-1)]
        labels = accepted[i * len(images) :][: len(images)]
        right += [
            int(k) in each for k, each, there in zip(best, labels, mask, strict=False) if each and there
        ]
    if not right:
        raise InputError(f"none of the {len(listing)} images in {listing.place} can be read and has a label")
    return {"real": sum(right) / len(right), "n": len(right)} | _skipped(split)


def imagenet_c(run: Run, root: Path, data: DataConfig, pace: Pace) -> dict[str, Any]:
    """mCE over the fifteen corruptions, and of each the error, and that over AlexNet's.

    "n" is the number of images, each counted under every corruption.
    """
    places = [root / name / severity for name in ALEXNET for severity in SEVERITIES]
    if missing := [str(place) for place in places if not place.is_dir()]:
        raise InputError(
            f"{root} must hold ImageNet-C; {len(missing)} folders are missing, e.g. {missing[0]}"
        )
    sizes = Sizes(SIDE, 0.0, SIDE, 1.0, data.decoder)  # what has this side stays as it is
    splits = [_split(run, list_place(place, "test"), sizes, data) for place in places]
    evaluate, found = make_evaluator(run, data, pace), []
    for place, split in zip(places, splits, strict=True):
        found.append(evaluate(split))
        logging.info("%s at severity %s: error %.4f", place.parent.name, place.name, 1 - found[-1]["top1"])
    severities = len(SEVERITIES)
    errors = 1 - np.reshape([metrics["top1"] for metrics in found], (-1, severities)).mean(1)
    ratios = errors / list(ALEXNET.values())
    each = {
        name: {"error": float(error), "ce": float(ratio)}
        for name, error, ratio in zip(ALEXNET, errors, ratios, strict=True)
    }
    mean = {"mce": float(ratios.mean()), "error": float(errors.mean())}
    skipped = {"skipped_images": count} if (count := sum(len(split.bad) for split in splits)) else {}
    return {**mean, "n": sum(metrics["n"] for metrics in found), "corruptions": each} | skipped


SETS: dict[str, Callable[[Run, Path, DataConfig, Pace], dict[str, Any]]] = {
    "imagenet_v2": imagenet_v2,
    "imagenet_real": imagenet_real,
    "imagenet_c": imagenet_c,
}


def _skipped(split: StreamSplit) -> dict[str, int]:
    return {"skipped_images": len(split.bad)} if len(split.bad) else {}


def _split(run: Run, listing: Listing, sizes: Sizes, data: DataConfig) -> StreamSplit:
    """The images of a listing, labelled as the run's net has its outputs."""
    if len(listing.classes) != CLASSES:
        raise InputError(f"{listing.place} must hold images of all {CLASSES} classes; it has {_few(listing)}")
    outputs = np.argsort(_standard_order(run.task.class_names))
    labels = outputs[_standard_order(listing.classes)][listing.labels].astype(np.int32)
    return StreamSplit(listing, np.arange(len(listing)), sizes, labels, BadImages(data.bad_limit))


def _numbers() -> set[str]:
    """The names of the classes where they are numbers."""
    return set(map(str, range(CLASSES)))


def _standard_order(names: Sequence[str]) -> np.ndarray:
    """The number of each class in ImageNet's order, which is that of the sorted WordNet numbers.

    Classes of other names are taken to be in that order already.
    """
    if set(names) == _numbers():
        return np.array(list(map(int, names)))
    if all(WNID.fullmatch(name) for name in names):
        return np.argsort(np.argsort(names))
    return np.arange(len(names))


def _number(listing: Listing, row: int, count: int) -> int:
    """The number of a validation image, from 1; InputError for a name without one."""
    match = NUMBERED.fullmatch(Path(listing.relative(row)).name)
    if not match or not 1 <= int(match[1]) <= count:
        raise InputError(f"{listing.name(row)} is none of the {count:,} images that {REAL} has labels for")
    return int(match[1])


def _read_lists(path: Path) -> list[set[int]]:
    """The labels that fit each validation image, in the order of their numbers."""
    try:
        lists = json.loads(path.read_bytes())
        if not all(isinstance(label, int) for each in lists for label in each):
            raise ValueError("it is no list of lists of class numbers")
        return list(map(set, lists))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put the list of ReaL's authors there") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read as lists of labels ({error})") from None


def _few(listing: Listing) -> str:
    return f"{len(listing.classes)} folders, e.g. {', '.join(listing.classes[:3])}"
