"""Published nets by name: at their start, or with weights of a file, of a run, or from Hugging Face."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from resnet.config import Config, model_from_dict
from resnet.data.files.decoders import PILLOW
from resnet.errors import InputError, check_whole
from resnet.fields import closest
from resnet.files import local_path
from resnet.interop import hub
from resnet.interop.convert import as_in_pytorch
from resnet.interop.hub import About
from resnet.models.resnet import make_model
from resnet.models.zoo import ZOO
from resnet.net import Net
from resnet.paths import shapes_by_path
from resnet.run import load
from resnet.runs.checkpoints.restore import variable_shapes
from resnet.runs.task import Task
from resnet.training.finetune import conventions, tell_what_is_unsaid
from resnet.training.start import init_variables
from resnet.weights.files import SUFFIXES, check_finite, read_metadata, read_weights
from resnet.weights.state_dict import detect, from_state_dict, outputs_of

# Of ImageNet's pixels over 255, as torchvision and timm have them; published CIFAR nets take them, too.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make(
    name: str,
    num_classes: int | None = None,
    weights: str | Path = "",
    *,
    image_shape: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Net:
    """A net of the zoo and its variables.

    `weights` are a file (.safetensors, .pth, …), a run's folder, or a name on Hugging Face such as
    timm/resnet50.a1_in1k; empty: values at random, drawn by `seed`. Weights bring image shape, normalisation,
    crop and class names where these are stated with them; else they are the zoo's shape, ImageNet's mean and
    std, the central square of a picture, and numbers for names. With another `num_classes` than that of the
    weights, the head begins at random. InputError for weights of another net.
    """
    if name not in ZOO:
        raise InputError(f"unknown net {name!r}{closest(name, ZOO)}; resnet describe --zoo lists all")
    if num_classes is not None:
        check_whole("num_classes", num_classes, 1)
    check_whole("seed", seed, 0)
    if image_shape is not None:
        _check_shape(image_shape)
    about = _unstated(image_shape or ZOO[name].image_shape)
    if not weights:
        return _at_random(name, about, num_classes or ZOO[name].num_outputs, seed)
    net = _from(weights, name, about)
    _check_same(str(weights), name, net)
    if image_shape:
        net = _resized(net, tuple(image_shape))
    return net if num_classes in (None, net.task.num_outputs) else _with_new_head(net, num_classes, seed)


def _check_shape(shape: Any) -> None:
    """Raises InputError unless it is three positive whole numbers."""
    sides = shape if isinstance(shape, tuple | list) else ()
    if len(sides) != 3 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"`image_shape` must be (height, width, channels), all above 0; got {shape!r}")


def _unstated(shape: tuple[int, ...]) -> About:
    """What is taken for a net of which nothing is stated; grey images have the mean of the colours'."""
    mean, std = (255 * np.asarray(values, np.float32) for values in (MEAN, STD))
    if shape[-1] != len(mean):
        mean, std = (np.full(shape[-1], values.mean(), np.float32) for values in (mean, std))
    return About(tuple(shape), mean, std)


def _at_random(name: str, about: About, outputs: int, seed: int) -> Net:
    model = make_model(ZOO[name].config, outputs)
    variables = init_variables(jax.random.key(seed), model=model, image_shape=about.image_shape)
    return Net(model, variables, _task(about, outputs))


def _task(about: About, outputs: int) -> Task:
    """The task of a classifier, whose classes are numbered where their names are not known."""
    named = len(about.class_names) == outputs
    names = about.class_names if named else tuple(map(str, range(outputs)))
    return Task("classification", about.image_shape, names, about.mean, about.std)


def _from(weights: str | Path, name: str, about: About) -> Net:
    """The net of a folder, of a file, or of a name on Hugging Face, whichever there is."""
    path = local_path(weights)
    if path.is_dir():
        return load(path).net
    named_as_file = path.suffix in (".safetensors", *SUFFIXES)
    if path.exists() or named_as_file or not hub.is_name(str(weights)):
        return _from_file(path, name, about)
    file, about = hub.fetch_from_hub(str(weights), name, about)
    return _from_file(file, name, about)


def _from_file(path: Path, name: str, about: About) -> Net:
    """Builds a net from a weight file. The metadata in a file that we exported override `about`.

    A warning names what decides the results and stands in neither of the two.
    """
    state, said = read_weights(path), read_metadata(path)
    check_finite(path, state)
    arrays = {key: np.asarray(said[key], np.float32) for key in ("mean", "std") if key in said}
    crop, size = said.get("eval_crop", about.crop), said.get("eval_size", 0)
    flip, decoder = said.get("eval_flip", False), said.get("decoder", PILLOW)
    lists = {key: tuple(said[key]) for key in ("image_shape", "class_names") if key in said}
    about = dataclasses.replace(about, **arrays, **lists)
    stated = said.get("resnet_config")
    config = Config(model=ZOO[name].config if stated is None else model_from_dict(stated))
    published = variable_shapes(config, _task(about, ZOO[name].num_outputs))
    naming = detect(state, config.model, published)
    if stated is None:
        config = as_in_pytorch(config, naming)
    task = _answering(said, _task(about, outputs_of(state, config.model, published, naming)))
    known = about.stated | said.keys()
    tell_what_is_unsaid(
        path,
        {} if known & {hub.NET, "resnet_config"} else conventions(config.model),
        {key: getattr(task, key) for key in ("mean", "std") if key not in known},
    )
    variables, _ = from_state_dict(state, config.model, variable_shapes(config, task), naming)
    variables = jax.tree.map(jnp.asarray, variables)
    return Net(make_model(config.model, task.num_outputs), variables, task, crop, size, flip, decoder)


def _answering(said: dict[str, Any], task: Task) -> Task:
    """The task with the kind and the unit of the answer that a file of ours states."""
    stated = {key: said[key] for key in ("kind", "unit", "target_scale") if key in said}
    names = () if stated.get("kind") == "regression" else task.class_names
    return dataclasses.replace(task, class_names=names, **stated)


def _check_same(weights: str, name: str, net: Net) -> None:
    """Raises InputError unless the weights have the shapes of the named net's."""
    ours = shapes_by_path(variable_shapes(Config(model=ZOO[name].config), net.task))
    theirs = shapes_by_path(net.variables)
    if differing := sorted(path for path in ours | theirs if ours.get(path) != theirs.get(path)):
        path = differing[0]
        raise InputError(
            f"{weights} holds another net than {name}: {path} is {theirs.get(path, 'missing')} there, and "
            f"{ours.get(path, 'missing')} in {name}"
        )


def _resized(net: Net, shape: tuple[int, ...]) -> Net:
    """The net for images of another size; InputError where its channels or its mean image do not allow it."""
    known = net.task.image_shape
    if shape != known and (shape[-1] != known[-1] or net.task.mean.ndim == 3):
        raise InputError(f"`image_shape` must be {known}, as the weights have it; got {shape}")
    return dataclasses.replace(net, task=dataclasses.replace(net.task, image_shape=shape), size=0)


def _with_new_head(net: Net, outputs: int, seed: int) -> Net:
    """The net with another number of outputs, whose linear layer begins at random."""
    names = tuple(map(str, range(outputs)))
    task = dataclasses.replace(net.task, kind="classification", class_names=names, unit="", target_scale=1.0)
    model = make_model(net.model.config, outputs)
    fresh = init_variables(jax.random.key(seed), model=model, image_shape=task.image_shape)
    head = net.variables["params"]["head"] | {"dense": fresh["params"]["head"]["dense"]}
    params = net.variables["params"] | {"head": head}
    logging.warning("the head begins at random: the weights have %d outputs", net.task.num_outputs)
    return dataclasses.replace(net, model=model, variables=net.variables | {"params": params}, task=task)
