"""The first state with weights of a run or of a file, where they fit and are wanted, or made from images."""

import dataclasses
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from resnet.config import Config, differences, model_from_dict
from resnet.data.splits import Examples
from resnet.data.statistics import whitening_kernel
from resnet.errors import InputError, first_of
from resnet.files import local_path
from resnet.models.config import ModelConfig
from resnet.models.grammar import idle_in_net
from resnet.paths import check_matches, leaf_paths, parameter_path, regex_of, shapes_by_path
from resnet.runs.checkpoints.restore import load_variables, variable_shapes
from resnet.runs.task import Task, listed
from resnet.training.step import TrainState
from resnet.weights.files import check_finite, read_class_names, read_metadata, read_weights
from resnet.weights.state_dict import fitting_tensors

CLASSIFIER = "head/dense"
# Fields that decide what given weights compute, and that no shape tells.
OF_THE_FUNCTION = tuple(
    f"model.{name}"
    for name in (
        "stem", "activation_order", "stride_at", "activation", "after_sum", "gain_corrected", "shortcut",
        "shortcut_scale", "branch_scale", "transition", "pad_mode", "pad_side", "norm", "norm_groups",
        "norm_epsilon", "weight_standardization", "stochastic_depth", "stochastic_depth_rule",
        "stochastic_depth_each", "padding", "output", "branch", "dropout_kind", "shortcut_dropout",
    )
)  # fmt: skip
# Fields in which published nets differ whose weights have the same names and shapes, and who differs.
CONVENTIONS = {
    "pad_side": "both in akamaster/pytorch_resnet_cifar10",
    "stride_at": "first in resnet-1k-layers and in Caffe's nets",
    "stochastic_depth": "0 in evaluation in PyTorch's nets, which weigh branches in training",
}
Tensors = dict[str, np.ndarray]  # by path, such as params/head/dense/kernel


def load_initial(config: Config, task: Task) -> Tensors:
    """What `init_from` gives to the net of the config, without what matches `init_drop`; {} without either.

    InputError unless every other tensor is there, of the same shape, and nothing is left over.
    """
    if not config.init_from:
        return {}
    shapes = variable_shapes(config, task)
    source = local_path(config.init_from)
    if source.is_dir():
        (found, known), unknown = _tensors_of_run(source, config, task), []
    else:
        found, unknown = fitting_tensors(read_weights(source), config.model, shapes)
        known = read_class_names(source)
        tell_of_another_net(source, config, task)
    wanted = shapes_by_path(shapes)
    check_matches("init_drop", config.init_drop, [*map(_short, {**wanted, **found}), *unknown])
    kept = partial(_kept, config.init_drop)
    problems = {
        "missing there": kept(path for path in wanted if path not in found),
        "not in this net": kept([*(path for path in found if path not in wanted), *unknown]),
        "of another shape": kept(p for p in wanted if p in found and found[p].shape != wanted[p]),
    }
    if any(problems.values()):
        raise InputError(_refusal(config, problems, found, wanted))
    initial = {path: found[path] for path in kept(wanted)}
    check_finite(f"`init_from` {config.init_from!r}", {_short(path): initial[path] for path in initial})
    if any(path.startswith(f"params/{CLASSIFIER}/") for path in initial):
        _check_head(source, known, task)
    logging.info("%d of %d tensors start from %s", len(initial), len(wanted), source)
    return initial


def whitened_start(config: Config, task: Task, train: Examples) -> Tensors:
    """The first kernel of the stem, from `init_whitened` training images; {} where none are to be used."""
    if not config.init_whitened:
        return {}
    size, _, inputs, outputs = variable_shapes(config, task)["params"]["stem"]["conv1"]["kernel"].shape
    if outputs % 2 or outputs > 2 * size * size * inputs:
        raise InputError(
            f"`init_whitened` needs an even number of channels in the first convolution, at most "
            f"{2 * size * size * inputs} for its {size}x{size} pixels; `model.stem_width` gives {outputs}"
        )
    kernel = whitening_kernel(train, config.init_whitened, task.mean, task.std, size, outputs)
    return {"params/stem/conv1/kernel": kernel}


def begin(state: TrainState, initial: Tensors) -> TrainState:
    """The state before the first step with the `initial` tensors in their places, its average too.

    What is not among them stays as the seed drew it.
    """
    if not initial:
        return state

    def place(key: tuple, leaf: Any) -> Any:
        # Copied, because the state is donated and several seeds start from one source.
        return jnp.array(initial.get(parameter_path(key), leaf), leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(place, state.current)
    ema = jax.tree.map(jnp.copy, variables) if state.ema else {}
    return dataclasses.replace(state, **variables, ema=ema)


def _check_head(source: Path, known: tuple[str, ...] | None, task: Task) -> None:
    """Says for which classes a head is kept; InputError where it was trained for others, or another order."""
    here = listed(task.class_names)
    if known is not None and known != task.class_names:
        raise InputError(
            f"`init_from` {str(source)!r} has a head for the classes {listed(known)}, these data "
            f"have {here}; if it should start at random, set --config.init_drop='^{CLASSIFIER}/'"
        )
    if task.class_names:
        word = "which names no classes: its outputs stand for" if known is None else "trained for the same"
        logging.info("the head is kept from %s, %s %s", source, word, here)


def _tensors_of_run(workdir: Path, config: Config, task: Task) -> tuple[Tensors, tuple[str, ...]]:
    """All variables of a run's latest checkpoint, and its classes.

    A warning if its net computes another thing, or saw its images otherwise normalised.
    """
    origin, theirs, variables, _ = load_variables(workdir)
    _tell_of_another_function(workdir, origin, config)
    _tell_of_other_statistics(workdir, {"mean": theirs.mean, "std": theirs.std}, task)
    leaves = map(np.asarray, jax.tree.leaves(variables))
    return dict(zip(leaf_paths(variables), leaves, strict=True)), theirs.class_names


def tell_of_another_net(file: Path, config: Config, task: Task) -> None:
    """A warning for each thing in which the net of a file fits, but is not the config's, or may not be."""
    said = read_metadata(file)
    stated = {name: np.asarray(said[name], np.float32) for name in ("mean", "std") if name in said}
    if "resnet_config" in said:
        theirs = Config(model=model_from_dict(said["resnet_config"]))
        _tell_of_another_function(file, theirs, config)
    else:
        statistics = {} if stated else {"mean": task.mean, "std": task.std}
        tell_what_is_unsaid(file, conventions(config.model), statistics)
    _tell_of_other_statistics(file, stated, task)


def conventions(model: ModelConfig) -> dict[str, str]:
    """The fields of CONVENTIONS that have an effect in this net."""
    return {name: str(getattr(model, name)) for name in CONVENTIONS if has_effect(name, model)}


def unusual(model: ModelConfig) -> dict[str, Any]:
    """The fields of OF_THE_FUNCTION that have an effect, and are neither the default nor told by names."""
    names = [field.removeprefix("model.") for field in OF_THE_FUNCTION]
    return {
        name: getattr(model, name)
        for name in names
        if name not in ("stem", "branch")
        and getattr(model, name) not in (getattr(ModelConfig, name), "projection")  # which has tensors
        and has_effect(name, model)
    }


def has_effect(name: str, model: ModelConfig) -> bool:
    """Tells whether a field of OF_THE_FUNCTION changes what a net computes from given weights."""
    if name.startswith("stochastic_depth"):  # by image it changes training alone
        return model.stochastic_depth > 0 and model.stochastic_depth_each == "batch"
    return name not in idle_in_net(model)


def tell_what_is_unsaid(file: Path, taken: dict[str, str], statistics: Tensors) -> None:
    """A warning that names what decides the results of weights, and is `taken` since nothing states it."""
    found = []
    for name, value in taken.items():
        note = CONVENTIONS[name]
        found.append(f"model.{name}={value}" + ("" if note.startswith(value) else f" ({note})"))
    found += [f"data.{name}={_shown(value)}" for name, value in statistics.items()]
    if found:
        logging.warning(
            "%s holds tensors alone: they compute what they did only if they were trained with %s",
            file, ", ".join(found),
        )  # fmt: skip


def _tell_of_another_function(source: Path, theirs: Config, config: Config) -> None:
    """A warning for each field in which nets of the same shapes differ, and compute another thing."""
    for field, there, here in differences(theirs, config):
        name = field.removeprefix("model.")
        if field in OF_THE_FUNCTION and any(has_effect(name, each.model) for each in (theirs, config)):
            logging.warning(
                "%s holds weights of a net with %s=%r, and here it is %r: it computes another thing",
                source, field, there, here,
            )  # fmt: skip


def _tell_of_other_statistics(source: Path, stated: Tensors, task: Task) -> None:
    """A warning where weights were trained on images that were otherwise normalised."""
    for field, there in stated.items():
        here = getattr(task, field)
        pair = (there, here) if there.shape == here.shape else (_of_channels(there), _of_channels(here))
        if pair[0].shape != pair[1].shape or not np.allclose(*pair, rtol=0.05, atol=1.0):
            remedy = "set data.normalization=channel and" if task.mean.ndim > 1 else "set"
            logging.warning(
                "%s was trained with data.%s=%s, these data have %s (of 0..1); %s data.%s to keep it",
                source, field, _shown(there), _shown(here), remedy, field,
            )  # fmt: skip


def _of_channels(values: np.ndarray) -> np.ndarray:
    """A statistic of each channel; where there is one of each pixel, their means."""
    return values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=float)


def _shown(values: np.ndarray) -> str:
    """A statistic as `data.mean` and `data.std` take it, in 0..1."""
    means = ",".join(f"{mean:.3g}" for mean in _of_channels(values) / 255)
    return means + (" on average" if values.ndim > 1 else "")


def _refusal(config: Config, problems: dict[str, list[str]], found: Tensors, wanted: dict[str, Any]) -> str:
    """What does not fit, and the option that starts it anew."""

    def described(path: str) -> str:
        both = path in found and path in wanted
        return f"{_short(path)} (there {found[path].shape}, here {wanted[path]})" if both else _short(path)

    parts = []
    for what, paths in problems.items():
        if paths:
            parts.append(f"{what}: {first_of(map(described, paths))}")
    odd = [_short(path) for paths in problems.values() for path in paths]
    dropped = config.init_drop
    known = [_short(path) for path in _kept(dropped, {**found, **wanted})]
    regex = "|".join(filter(None, (dropped, regex_of(odd, known))))
    remedy = f"If these should start at random, or be left out, set --config.init_drop='{regex}'"
    if regex == dropped:
        remedy = "No other part of it fits: choose the weights of this net, or leave out `init_from`"
    return f"`init_from` {config.init_from!r} does not fit this net; {'; '.join(parts)}. {remedy}"


def _kept(drop: str, paths: Iterable[str]) -> list[str]:
    """The paths that the regular expression `drop` does not match; all of them if it is empty."""
    return [path for path in paths if not (drop and re.search(drop, _short(path)))]


def _short(path: str) -> str:
    """A path without its collection, as the regular expressions of the config see it."""
    collection, _, rest = path.partition("/")
    return rest if collection in ("params", "batch_stats") else path
