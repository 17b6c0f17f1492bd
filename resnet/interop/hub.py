"""Weights from Hugging Face: safetensors alone, and what the repository says of them."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.errors import InputError, check_installed
from resnet.files import read_object

CONFIG, WEIGHTS = "config.json", "model.safetensors"
BILINEAR = "bilinear"  # how `net.read` resizes
NET = "architecture"  # the key of the net's name in CONFIG


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a net besides its tensors."""

    image_shape: tuple[int, ...]
    """Height, width, channels."""
    mean: np.ndarray
    """Subtracted from pixels of 0 to 255; std likewise divides them."""
    std: np.ndarray
    class_names: tuple[str, ...] = ()
    """Empty where they are not known."""
    crop: float = 1.0
    """Share of a picture's shorter side that the centre crop of evaluation keeps."""
    stated: frozenset[str] = frozenset()
    """Names of the fields that CONFIG states, and NET if it names the net."""


def is_name(text: str) -> bool:
    """Whether it can be the name of a repository: owner/name."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None


def fetch_from_hub(repository: str, net: str, about: About) -> tuple[Path, About]:
    """Fetches the weights of `net`; returns their file, and `about` with what the repository states.

    InputError where the repository holds no such weights. Files are kept where huggingface_hub keeps them
    ($HF_HOME), and fetched from $HF_ENDPOINT.
    """
    fetch = "to fetch it from Hugging Face, pip install -r requirements-hub.txt"
    check_installed(("huggingface_hub",), f"{repository} is no file or folder; {fetch}")
    config = read_object(_file(repository, CONFIG))
    architecture = config.get(NET, net)
    if architecture != net:
        raise InputError(f"{repository} holds weights of {architecture}, not of {net}; make that net")
    return _file(repository, WEIGHTS), _stated(config, about)


def _file(repository: str, name: str) -> Path:
    """A file of a repository, fetched if it is not kept."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, endpoint=os.environ.get("HF_ENDPOINT")))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"there is no file or folder {repository}, and {name} of that name on Hugging Face cannot be "
            f"fetched: {reason}"
        ) from None


def _stated(config: dict[str, Any], about: About) -> About:
    """What a config.json of timm says: https://huggingface.co/docs/hub/timm."""
    stated = config.get("pretrained_cfg", {})
    found: dict[str, Any] = {}
    if (how := stated.get("interpolation", BILINEAR)) != BILINEAR:
        logging.warning(
            "their images were resized by the method %s, ours are by %s: scores may move", how, BILINEAR
        )
    if isinstance(config.get("label_names"), list):
        found["class_names"] = tuple(map(str, config["label_names"]))
    if "input_size" in stated:
        channels, height, width = stated["input_size"]
        found["image_shape"] = (height, width, channels)
    for key in ("mean", "std"):
        if key in stated:
            found[key] = 255 * np.asarray(stated[key], np.float32)
    if "crop_pct" in stated:
        found["crop"] = float(stated["crop_pct"])
    return dataclasses.replace(about, **found, stated=frozenset(found) | ({NET} & config.keys()))
