"""What resnet.make says of weights: what nothing states and what is not there. What is stated is kept."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet
from resnet.config import Config
from resnet.errors import InputError
from resnet.interop.convert import export_weights
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.models.zoo import ZOO, KnownNet
from resnet.run import Run
from resnet.runs.checkpoints.restore import variable_shapes
from resnet.runs.task import Task
from resnet.training.finetune import load_initial
from resnet.weights.files import write_safetensors
from resnet.weights.state_dict import to_state_dict
from tests.folder_cases import noted

CONFIG = Config(model=ModelConfig(blocks=(1, 1, 1), width=0.25))
TASK = Task("regression", (8, 8, 3), (), np.zeros(3, np.float32), np.ones(3, np.float32), "degrees", 45.0)


@pytest.fixture
def run(monkeypatch):
    """A regression that is exported by any name, and whose net is among the published."""
    monkeypatch.setitem(ZOO, "tiny", KnownNet(CONFIG.model, 0, None, "", 1, TASK.image_shape))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variable_shapes(CONFIG, TASK))
    found = Run(CONFIG, TASK, make_model(CONFIG.model, 1), variables, 7, Path("none"))
    monkeypatch.setattr("resnet.interop.convert.load", lambda *_: found)
    return found


def test_what_nothing_states_is_told(run, tmp_path, monkeypatch):
    lines, path = noted(monkeypatch), tmp_path / "net.safetensors"
    write_safetensors(path, to_state_dict(CONFIG.model, run.variables, "cifar"), {})
    resnet.make("tiny", weights=path)
    (line,) = lines
    assert line.startswith(f"{path} holds tensors alone: they compute what they did only if")
    assert "model.pad_side=both, data.mean=0.485,0.456,0.406, data.std=0.229,0.224,0.225" in line


def test_an_exported_regression_is_one(run, tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    export_weights("none", tmp_path / "net.safetensors")
    net = resnet.make("tiny", weights=tmp_path / "net.safetensors")
    found = dataclasses.asdict(net.task)
    for name in ("kind", "class_names", "unit", "target_scale"):
        assert found[name] == getattr(TASK, name)
    assert not lines


def test_the_decoder_of_a_run_is_that_of_its_exported_net(run, tmp_path, monkeypatch):
    data = dataclasses.replace(CONFIG.data, name="image_folder", dir="x", image_size=8, decoder="simplejpeg")
    given = dataclasses.replace(run, config=dataclasses.replace(CONFIG, data=data))
    monkeypatch.setattr("resnet.interop.convert.load", lambda *_: given)
    export_weights("none", tmp_path / "net.safetensors")
    assert resnet.make("tiny", weights=tmp_path / "net.safetensors").decoder == "simplejpeg"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("runs/net.safetensors", "weight file runs/net.safetensors does not exist$"),
        (
            "resnet50.a1_in1k",
            "weight file resnet50.a1_in1k does not exist; resnet.make alone takes names on Hugging Face, as",
        ),
        ("../net", "weight file ../net does not exist"),
        ("runs/net", "huggingface_hub, .* is not installed: runs/net is no file or folder; to fetch it from"),
    ],
)
def test_weights_that_are_not_there(weights, message, run, monkeypatch):
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=message):
        resnet.make("tiny", weights=weights)


@pytest.mark.parametrize("config", ['{"architecture": "tiny"}', None])
def test_a_folder_that_was_fetched_from_hugging_face(config, run, tmp_path):
    if config:
        (tmp_path / "config.json").write_text(config, encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    readers = (
        lambda: resnet.make("tiny", weights=tmp_path),
        lambda: resnet.load(tmp_path),
        lambda: load_initial(Config(init_from=str(tmp_path)), run.task),
    )
    for read in readers:
        with pytest.raises(InputError, match=r"`init_from`, .* by the name of .*/model\.safetensors"):
            read()
