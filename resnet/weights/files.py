"""Weight files: PyTorch's own, read without running what is in them, and safetensors."""

import contextlib
import importlib.util
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet.errors import InputError
from resnet.files import creating, local_path

StateDict = dict[str, np.ndarray]

SUFFIXES = (".pth", ".pt", ".th", ".bin", ".ckpt", ".tar")  # PyTorch's; any other is safetensors
# Under which training scripts keep the state dict in their checkpoints.
CONTAINERS = ("state_dict", "model", "model_state_dict", "net", "weights")
# What our own files say in JSON.
METADATA = {
    "resnet_config", "image_shape", "class_names", "mean", "std", "eval_size", "eval_crop", "eval_flip",
    "decoder", "kind", "unit", "target_scale",
}  # fmt: skip
# What wrappers put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_weights(path: str | Path) -> StateDict:
    """All tensors of a file by name, floating-point ones as float32, without wrappers' prefixes."""
    path = check_source(path)
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not tensors:
        raise InputError(f"weight file {path} holds no tensors")
    for prefix in _wrappers(tensors):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a file of ours says of its tensors, such as class_names; {} where a file says nothing."""
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        texts = file.metadata() or {}
    found = {}
    for name in METADATA & texts.keys():
        with contextlib.suppress(ValueError):
            found[name] = json.loads(texts[name])
    return found


def read_class_names(path: str | Path) -> tuple[str, ...] | None:
    """The classes that a file of ours says its outputs stand for; None where a file says nothing of them."""
    names = read_metadata(path).get("class_names")
    return tuple(map(str, names)) if isinstance(names, list) else None


def check_finite(source: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises InputError naming the first tensor with a number that is infinite or not a number."""
    bad = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if bad:
        more = f" and {len(bad) - 1} more tensors have" if bad[1:] else " has"
        raise InputError(
            f"{source}: {bad[0]}{more} numbers that are not finite: nothing can start from such weights"
        )


def check_source(path: str | Path) -> Path:
    """The path; InputError unless it is a file of a kind that can be read here. It is not opened."""
    path = local_path(path)
    if not path.is_file():
        absent = "does not exist"
        if len(path.parts) <= 2 and path.suffix not in (".safetensors", *SUFFIXES):
            absent += "; resnet.make alone takes names on Hugging Face, as OWNER/NAME"
        raise InputError(f"weight file {path} {'is a folder: name one in it' if path.is_dir() else absent}")
    if path.suffix != ".safetensors" and path.suffix not in SUFFIXES:
        raise InputError(f"weight file {path} must end in .safetensors or {', '.join(SUFFIXES)}")
    if path.suffix in SUFFIXES and importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{path} is a PyTorch file: install what reads it with pip install -r requirements-torch.txt, "
            "or convert it to safetensors where PyTorch is at hand"
        )
    return path


def _wrappers(names: Mapping[str, Any]) -> Iterator[str]:
    """The prefixes that all names have, outermost first."""
    rest = list(names)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in rest)), None):
        yield prefix
        rest = [name.removeprefix(prefix) for name in rest]


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="flax") as file:
            # As JAX arrays, because NumPy alone has no bfloat16.
            return {name: _single(np.asarray(file.get_tensor(name))) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no whole safetensors file ({error}): fetch it again") from None


def _read_torch(path: Path) -> StateDict:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the age of a file's pickle, before it is refused or read
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged, or holds more than tensors, which is not read because it could run "
            f"any code ({_reason(error)}): save its state dict alone"
        ) from None
    except Exception as error:  # Whatever half a file makes the unpickler raise.
        raise InputError(f"{path} is no whole PyTorch file ({_reason(error)}): fetch it again") from None
    found = _state_dict(loaded)
    if found is None:
        raise InputError(f"{path} holds no state dict; looked for one at the top and under {CONTAINERS}")
    return {name: _single(_to_numpy(tensor)) for name, tensor in found.items()}


def _reason(error: Exception) -> str:
    """PyTorch's error without its advice, part of which is to read the file unsafely."""
    text = str(error)
    found = re.search(r"WeightsUnpickler error:\s*(.*?)(?: was not an allowed global|$)", text, re.MULTILINE)
    return found[1][:120] if found else re.split(r"\. |\n", text)[0][:120] or type(error).__name__


def _state_dict(loaded: Any) -> dict[str, Any] | None:
    """The names and tensors in what a training script saved."""
    import torch

    if not isinstance(loaded, Mapping):
        return None
    if loaded and all(isinstance(value, torch.Tensor) for value in loaded.values()):
        return dict(loaded)
    inner = (_state_dict(loaded[name]) for name in CONTAINERS if name in loaded)
    return next((each for each in inner if each), None)


def _to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _single(array: np.ndarray) -> np.ndarray:
    """Any kind of float as float32; integers as they are."""
    return array if np.issubdtype(array.dtype, np.integer) else np.asarray(array, np.float32)


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole or not at all."""
    from safetensors.numpy import save

    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    with creating(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata))
