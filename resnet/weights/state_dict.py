"""Our variables from a state dict of other names and layouts, and back: every tensor exactly once."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from resnet.errors import InputError, check_choice, first_of
from resnet.models.config import ModelConfig
from resnet.paths import parameter_path
from resnet.weights.files import StateDict
from resnet.weights.names import NAMINGS, is_pointwise, their_module

COUNTER = "num_batches_tracked"  # PyTorch counts the batches a norm has seen; nothing depends on it


@dataclasses.dataclass(frozen=True)
class Layout:
    """Converts the layout of an array from ours to theirs, and back."""

    theirs: Callable[[np.ndarray], np.ndarray]
    ours: Callable[[np.ndarray], np.ndarray]


LAYOUTS = {
    # HWIO and OIHW, groups included: I is the inputs of one group in both.
    "convolution": Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0)),
    "linear": Layout(lambda x: x.T, lambda x: x.T),
    "pointwise": Layout(lambda x: x.T[:, :, None, None], lambda x: x[:, :, 0, 0].T),
    "vector": Layout(lambda x: x, lambda x: x),
}
# PyTorch's running variance is a mean of unbiased variances, ours of biased ones (bn_unbiased=False).
# It is carried over as it is, for only so do the logits stay the same.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array of a net: its path (with collection) and shape here, its name and layout there."""

    path: str
    shape: tuple[int, ...]
    name: str
    layout: Layout

    @property
    def their_shape(self) -> tuple[int, ...]:
        return self.layout.theirs(np.empty(self.shape, np.bool_)).shape


def tensors_of(config: ModelConfig, variables: Any, naming: str) -> list[Tensor]:
    """All arrays of {"params", "batch_stats"}, or of their shapes; InputError if one has no name."""
    check_choice("naming", naming, NAMINGS)
    found, nameless = [], []
    for key, leaf in jax.tree_util.tree_leaves_with_path(variables):
        path = parameter_path(key)
        _, module = path.split("/", 1)
        module, leaf_name = module.rsplit("/", 1)
        their = their_module(NAMINGS[naming], config, module)
        if their is None or leaf_name not in LEAVES:
            nameless.append(path)
            continue
        layout = LAYOUTS[_layout(naming, module, leaf.shape)]
        found.append(Tensor(path, tuple(leaf.shape), f"{their}.{LEAVES[leaf_name]}", layout))
    if nameless:
        raise InputError(f"the {naming} naming has no name for {first_of(nameless)} of this net; "
                         f"namings: {', '.join(NAMINGS)}")  # fmt: skip
    return found


def _layout(naming: str, module: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "pointwise" if is_pointwise(NAMINGS[naming], module) else "linear"
    return "convolution" if len(shape) == 4 else "vector"


def from_state_dict(
    state: StateDict, config: ModelConfig, shapes: Any, naming: str = ""
) -> tuple[dict[str, Any], str]:
    """(variables of the tree `shapes`, the naming), NumPy arrays; the naming is detected if not given.

    InputError lists what is missing, left over, or of another shape: every tensor is used exactly once.
    """
    naming = naming or detect(state, config, shapes)
    tensors = tensors_of(config, shapes, naming)
    counters = {f"{t.name.rsplit('.', 1)[0]}.{COUNTER}" for t in tensors if t.name.endswith(".running_mean")}
    names = {tensor.name for tensor in tensors}
    problems = {
        "missing in the file": [t.name for t in tensors if t.name not in state],
        "unexpected in the file": [name for name in state if name not in names | counters],
        "of another shape": [
            f"{t.name} (file {state[t.name].shape}, net {t.their_shape})"
            for t in tensors
            if t.name in state and state[t.name].shape != t.their_shape
        ],
    }
    described = [f"{what}: {first_of(them)}" for what, them in problems.items() if them]
    if described:
        raise InputError(f"the weights are not of this net ({naming} naming): {'; '.join(described)}")
    values = {t.path: np.ascontiguousarray(t.layout.ours(state[t.name])) for t in tensors}
    return jax.tree_util.tree_map_with_path(lambda key, _: values[parameter_path(key)], shapes), naming


def fitting_tensors(
    state: StateDict, config: ModelConfig, shapes: Any
) -> tuple[dict[str, np.ndarray], list[str]]:
    """({our path: array of any shape}, names that the net does not have), of whatever the file holds."""
    tensors = tensors_of(config, shapes, detect(state, config, shapes))
    names = {tensor.name for tensor in tensors}
    found = {tensor.path: _ours(tensor, state[tensor.name]) for tensor in tensors if tensor.name in state}
    return found, [name for name in state if name not in names and not name.endswith(f".{COUNTER}")]


def _ours(tensor: Tensor, array: np.ndarray) -> np.ndarray:
    return tensor.layout.ours(array) if array.ndim == len(tensor.their_shape) else array


def outputs_of(state: Mapping[str, Any], config: ModelConfig, shapes: Any, naming: str) -> int:
    """How many outputs a state dict has; `shapes` are those of the net with any number of them."""
    tensors = tensors_of(config, shapes, naming)
    (name,) = (tensor.name for tensor in tensors if tensor.path == "params/head/dense/kernel")
    if name not in state:
        raise InputError(f"the weights have no head: {name} is missing")
    return state[name].shape[0]


def to_state_dict(config: ModelConfig, variables: Any, naming: str, batches: int = 0) -> StateDict:
    """The variables under their names; `batches` is written as the batches that each norm has seen."""
    tensors = tensors_of(config, variables, naming)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(variables)]
    state = {t.name: t.layout.theirs(leaf) for t, leaf in zip(tensors, leaves, strict=True)}
    for tensor in tensors:
        if tensor.name.endswith(".running_mean"):
            state[f"{tensor.name.removesuffix('running_mean')}{COUNTER}"] = np.array(batches, np.int64)
    return state


def detect(state: Mapping[str, Any], config: ModelConfig, shapes: Any) -> str:
    """The naming that shares most names with the state dict."""
    shared = {}
    for naming in NAMINGS:
        try:
            shared[naming] = sum(t.name in state for t in tensors_of(config, shapes, naming))
        except InputError:  # A naming that has no names for this net.
            continue
    best = max(shared, key=lambda naming: shared[naming], default="")
    if not best or not shared[best]:
        raise InputError(
            f"the weights have none of the names of this net; theirs look like {first_of(sorted(state))}, "
            f"and are in none of the namings {', '.join(shared)}"
        )
    return best
