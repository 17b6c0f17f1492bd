"""Weights without a config are imported by PyTorch's conventions, and the log names those conventions."""

import numpy as np
import pytest

import resnet
from resnet.config import Config
from resnet.interop.convert import export_weights, import_weights
from resnet.models import zoo
from resnet.models.config import ModelConfig
from resnet.run import load
from resnet.runs.task import Task
from resnet.training.finetune import conventions, load_initial, tell_of_another_net, unusual
from resnet.weights import files
from resnet.weights.state_dict import to_state_dict
from tests.folder_cases import noted
from tests.test_interop_weights import SMALL, TASK, random_variables, random_variables_of_digits

PADDED = ModelConfig(**SMALL)
BOTTLENECK = ModelConfig(**SMALL, branch="bottleneck", transition="projection")


DROPPING = ModelConfig(**SMALL, stochastic_depth=0.5)


def written(path, model, variables=None):
    """A file of tensors alone."""
    state = to_state_dict(model, variables or random_variables(model), "cifar")
    files.write_safetensors(path, state, {})
    return path


def test_an_imported_cifar_net_pads_on_both_sides(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    config = Config(model=PADDED)
    config.data.train_limit = 32
    source = written(tmp_path / "net.safetensors", PADDED, random_variables_of_digits(config))
    import_weights(source, config, tmp_path / "run")
    assert load(tmp_path / "run").config.model.pad_side == "both"
    assert "training on takes --config.model.pad_side=both" in caplog.text
    done = export_weights(tmp_path / "run", tmp_path / "out.safetensors")
    with open(done["card"]) as card:
        assert "must do what model.pad_side=both stands for" in card.read()
    # Files of ours state their net, and keep it.
    export_weights(tmp_path / "run", tmp_path / "ours.safetensors")
    ours = Config(model=ModelConfig(**SMALL, pad_side="end"))
    ours.data.train_limit = 32
    import_weights(tmp_path / "ours.safetensors", ours, tmp_path / "again")
    assert load(tmp_path / "again").config.model.pad_side == "end"


def test_a_made_cifar_net_pads_on_both_sides(tmp_path, monkeypatch):
    tiny = zoo.KnownNet(PADDED, 0, None, "a test", num_outputs=3)
    monkeypatch.setitem(zoo.ZOO, "tiny", tiny)
    assert resnet.make("tiny").model.config.pad_side == "end"
    made = resnet.make("tiny", weights=written(tmp_path / "net.safetensors", PADDED))
    assert made.model.config.pad_side == "both"


@pytest.mark.parametrize(
    ("model", "field"),
    [
        (PADDED, r"model.pad_side=end (both in akamaster/pytorch_resnet_cifar10)"),
        (BOTTLENECK, "stride_at=3x3"),
        (DROPPING, "model.stochastic_depth=0.5 (0 in evaluation in PyTorch's nets, which weigh branches in"),
    ],
)
def test_what_a_file_does_not_state_is_named(tmp_path, monkeypatch, model, field):
    lines = noted(monkeypatch)
    path = written(tmp_path / "net.safetensors", model)
    load_initial(Config(model=model, init_from=str(path)), TASK)
    (line,) = lines
    assert line.startswith(f"{path} holds tensors alone") and field in line and "data.mean=0,0,0" in line


def test_what_names_do_not_tell_is_on_the_card():
    """Of the fields that decide what weights compute; drop path leaves evaluation alone."""
    assert unusual(PADDED) == {} and unusual(ModelConfig(**SMALL, shortcut="none")) == {"shortcut": "none"}
    assert unusual(DROPPING) == {"stochastic_depth": 0.5}
    by_image = ModelConfig(**SMALL, stochastic_depth=0.5, stochastic_depth_each="image")
    assert all(unusual(zoo.ZOO[name].config) == {} for name in ("resnet20", "resnet50", "resnext50_32x4d"))
    assert unusual(by_image) == {} and "stochastic_depth" not in conventions(by_image)


def test_statistics_of_channels_are_compared_with_those_of_pixels(tmp_path, monkeypatch):
    lines = noted(monkeypatch)
    path = tmp_path / "net.safetensors"
    said = {"resnet_config": "{}", "mean": "[127.5, 127.5, 127.5]", "std": "[255, 255, 255]"}
    files.write_safetensors(path, {"a": np.zeros(1, np.float32)}, said)
    of_pixels = np.full((32, 32, 3), 51, np.float32)
    task = Task("classification", (32, 32, 3), ("a", "b"), of_pixels, np.full(3, 255, np.float32))
    tell_of_another_net(path, Config(model=ModelConfig()), task)
    assert lines == [
        f"{path} was trained with data.mean=0.5,0.5,0.5, these data have 0.2,0.2,0.2 on average (of 0..1); "
        "set data.normalization=channel and data.mean to keep it"
    ]
