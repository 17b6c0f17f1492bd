"""A workdir from a weight file, and a weight file from a workdir."""

import collections
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from resnet.config import Config, config_to_dict, given_starts, replaced, save_config
from resnet.data.datasets import load_dataset, shapes_of
from resnet.data.splits import NAME
from resnet.data.statistics import given_statistics
from resnet.errors import InputError, check_choice
from resnet.files import check_suffix, check_writable, creating, local_path, make_parents
from resnet.interop.card import CARD, model_card
from resnet.paths import count_elements
from resnet.run import Run, load
from resnet.runs.checkpoints import checkpoint
from resnet.runs.checkpoints.restore import variable_shapes
from resnet.runs.metrics.records import to_json
from resnet.runs.open_run import Progress
from resnet.runs.provenance import versions, write_run_json
from resnet.runs.task import Task, listed, save_task, task_of
from resnet.training.finetune import conventions, tell_of_another_net, unusual
from resnet.training.step import TrainState, make_step
from resnet.weights.files import (
    check_finite,
    read_class_names,
    read_metadata,
    read_weights,
    write_safetensors,
)
from resnet.weights.names import NAMINGS
from resnet.weights.state_dict import from_state_dict, to_state_dict


def import_weights(
    source: str | Path,
    config: Config,
    workdir: str | Path,
    *,
    naming: str = "",
    classes: str | Path = "",
    command: str = "",
) -> dict[str, Any]:
    """Makes `workdir` a run of `config` at step 0 with the weights of a file; what was done.

    Classes and normalisation are those of the config's data; with `classes`, a file of one name a
    line, no data are read: `data.mean`, `data.std` and, of images in files, `data.image_size` say the rest.
    """
    workdir, source = local_path(workdir), local_path(source)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"{workdir} exists already; choose a new workdir")
    if naming:
        check_choice("naming", naming, NAMINGS)
    _check_one_start(config, source)
    make_parents(workdir)
    state = read_weights(source)
    check_finite(source, state)
    task = _task_without_data(config, local_path(classes)) if classes else task_of(load_dataset(config.data))
    known = read_class_names(source)
    if known is not None and known != task.class_names:
        raise InputError(
            f"the outputs of {source} stand for {listed(known)}, but the classes given are "
            f"{listed(task.class_names)}: give its own, in its order, by `data.classes` or --classes"
        )
    shapes = variable_shapes(config, task)
    variables, naming = from_state_dict(state, config.model, shapes, naming)
    stated = read_metadata(source).get("resnet_config")  # a file of ours has one
    if stated is None:
        config = as_in_pytorch(config, naming)
    else:
        config = replaced(config, {"model.bn_unbiased": stated.get("bn_unbiased", False)})
    tell_of_another_net(source, config, task)
    train_state = state_of(variables, config, task)
    with creating(workdir) as folder:
        folder.mkdir()
        save_config(config, folder)
        save_task(task, folder)
        write_run_json(folder, config, command)
        metadata = {"progress": dataclasses.asdict(Progress()), "meter": {}, "seed": config.seed}
        with checkpoint.managing(folder) as manager:
            checkpoint.save(manager, train_state, metadata | {"versions": versions()})
    parameters = count_elements(variables["params"])
    return {"workdir": str(workdir), "naming": naming, "tensors": len(state), "parameters": parameters}


def _check_one_start(config: Config, source: Path) -> None:
    """Raises InputError if the config has several seeds, or initial values besides those of `source`."""
    if config.train.seeds > 1:
        raise InputError(f"`train.seeds` must be 1, as weights make one run; got {config.train.seeds}")
    for field, unset, value in given_starts(config):
        raise InputError(f"`{field}` must be {unset!r}, as all weights are those of {source}; got {value!r}")


def export_weights(
    workdir: str | Path, target: str | Path, *, naming: str = "", step: int | None = None, licence: str = ""
) -> dict[str, Any]:
    """Writes the weights of a run as safetensors for PyTorch users, with a card beside; what was done.

    The naming is by default that of the net's kind. The config goes into the file's metadata, since
    names do not tell where a stride is or on which side channels are padded.
    """
    target = local_path(target)
    card = target.with_suffix(f".{CARD}")
    check_suffix("--export", target, ".safetensors")
    for path in (target, card):
        if path.exists():
            raise InputError(f"{path} exists already; choose a new file")
    if naming:
        check_choice("naming", naming, NAMINGS)
    check_writable(target)
    run = load(workdir, step)
    naming = naming or _usual_naming(run.config)
    state = to_state_dict(run.config.model, run.variables, naming, batches=run.step)
    metadata = {
        "format": "pt",  # which transformers asks for
        "naming": naming,
        "resnet_config": to_json(config_to_dict(run.config)["model"]),
        "image_shape": to_json(run.task.image_shape),
        "eval_size": to_json(run.config.data.eval_size),
        "eval_crop": to_json(run.config.data.eval_crop),
        "eval_flip": to_json(run.config.data.eval_flip),
        "decoder": to_json(run.net.decoder),
        "kind": to_json(run.task.kind),
        "unit": to_json(run.task.unit),
        "target_scale": to_json(run.task.target_scale),
        "class_names": to_json(run.task.class_names),
        "mean": to_json(run.task.mean.tolist()),
        "std": to_json(run.task.std.tolist()),
    }
    write_safetensors(target, state, metadata)
    with creating(card) as temporary:
        temporary.write_text(_card(run, target.name, naming, licence), "utf-8")
    done = {"export": str(target), "card": str(card), "naming": naming}
    return {**done, "tensors": len(state), "step": run.step}


def _card(run: Run, file: str, naming: str, licence: str) -> str:
    mean, std = run.task.mean, run.task.std
    values = f"(x - {mean.tolist()}) / {std.tolist()}" if mean.ndim == 1 else "its metadata say"
    call = (
        f"`{file}` holds the tensors in the {naming} naming, as PyTorch lays them out. The net takes images "
        f"x of pixels 0 to 255, normalised as {values}{_beside_names(run, naming)}:"
    )
    usage = f"""from safetensors.torch import load_file

net.load_state_dict(load_file("{file}"))"""
    return model_card(run, call, usage, licence)


def _beside_names(run: Run, naming: str) -> str:
    """The words on what a net of the same names and shapes must do to compute the same."""
    fields = conventions(run.config.model) | unusual(run.config.model)
    if naming == "timm_v2":  # names of nets of one order
        fields.pop("activation_order", None)
    found = ", ".join(f"model.{name}={value}" for name, value in fields.items())
    return f", and must do what {found} stands for, as another net with these names may not" if found else ""


def state_of(variables: dict[str, Any], config: Config, task: Task) -> TrainState:
    """The state before the first step, with these variables in place of the initial ones."""
    step = make_step(config, task, lambda step: jnp.zeros(()))
    return step.begun(config.seed, jax.tree.map(jnp.asarray, variables))


def as_in_pytorch(config: Config, naming: str) -> Config:
    """Sets the fields that PyTorch's weights need in a config; logs options that keep them in training."""
    model, found = config.model, {}
    if model.norm == "batch" and not model.bn_unbiased:
        found["model.bn_unbiased"] = True, "running variances of PyTorch are unbiased ones"
    if naming == "cifar" and conventions(model).get("pad_side") == "end":
        found["model.pad_side"] = "both", "nets with these names pad zero channels on both sides"
    for name, (value, reason) in found.items():
        logging.info("setting %s, as %s: training on takes --config.%s=%s", name, reason, name, value)
    return replaced(config, {name: value for name, (value, _) in found.items()})


def _task_without_data(config: Config, classes: Path) -> Task:
    """The task that a file of class names and the data fields describe."""
    try:
        # The encoding leaves out the mark that some editors put before the first name.
        lines = classes.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"file of class names {classes} cannot be read ({error})") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) < 2:
        raise InputError(f"file of class names {classes} must hold two or more; got {len(names)}")
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise InputError(
            f"file of class names {classes} has {', '.join(twice)} more than once: tell them apart"
        )
    data = config.data
    needed = ("mean", "std", *(["image_size"] if data.in_files else []))
    if missing := [f"`data.{field}`" for field in needed if not getattr(data, field)]:
        raise InputError(f"--classes takes the place of the data, and needs {' and '.join(missing)} too")
    side = data.image_size
    shape = (side, side, len(data.mean)) if data.in_files else shapes_of(data)[0]
    given = given_statistics(data.mean, data.std, shape[-1])
    # Images in files are held out by their names, others by place whatever is said here.
    return Task("classification", shape, names, given["mean"], given["std"], held_out_by=NAME)


def _usual_naming(config: Config) -> str:
    """cifar for nets with its stem, else timm's of the order."""
    if config.model.stem == "cifar":
        return "cifar"
    naming = "timm_v2" if config.model.activation_order == "preactivation" else "torchvision"
    assert naming in NAMINGS
    return naming
