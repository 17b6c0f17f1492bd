"""The composed config: files, JSON, differences, checks across fields, help."""

import dataclasses
import sys
import types

import pytest

from resnet.cli.options import override
from resnet.config import (
    Config,
    check_config,
    config_from_dict,
    config_hash,
    config_to_dict,
    differences,
    field_help,
    load_config,
    load_saved_config,
    replaced,
    save_config,
)
from resnet.errors import InputError
from resnet.fields import FORMER


def test_json_gives_back_the_same(tmp_path):
    config = Config(seed=3)
    config.model.blocks = (1, 2, 3)
    config.optimizer.lr_multipliers = (("head", 0.1),)
    save_config(config, tmp_path)
    assert load_saved_config(tmp_path) == config
    assert config_from_dict(config_to_dict(config)) == config


def test_unknown_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"config.json is missing"):
        load_saved_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json is unreadable"):
        load_saved_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"dept": 20}}')
    with pytest.raises(InputError, match=r"unknown field `model.dept`; did you mean `model.depth`"):
        load_saved_config(tmp_path)


FORMERLY = {"data.shift": 2, "data.shift_fill": "reflect", "model.order": "preactivation", "model.inner": 2.0,
            "model.squeeze": 0.25}  # fmt: skip


def test_fields_answer_to_the_names_that_they_had(tmp_path):
    """In a config file, on the command line, in the changes of an arm and in config.json; the hash stays."""
    assert FORMERLY.keys() == FORMER.keys()
    expected = replaced(Config(), {FORMER[name]: value for name, value in FORMERLY.items()})
    assert replaced(Config(), FORMERLY) == expected
    assert override(Config(), [f"--config.{name}={value}" for name, value in FORMERLY.items()]) == expected
    lines = [
        f"config.{name} = {value!r}\n    assert config.{name} == {value!r}"
        for name, value in FORMERLY.items()
    ]
    path = tmp_path / "config.py"
    start = "from resnet.config import Config\n\ndef get_config():\n    config = Config()\n    "
    path.write_text(start + "\n    ".join([*lines, "return config"]))
    assert load_config(path) == expected
    saved = config_to_dict(expected)
    for before, now in FORMER.items():
        section = saved[now.split(".")[0]]
        section[before.split(".")[1]] = section.pop(now.split(".")[1])
    assert config_from_dict(saved) == expected
    assert config_hash(expected) == "5fb6009564a8"  # of commit 800c5de


def test_differences_name_the_fields():
    other = Config(seed=1)
    other.model.depth = 56
    assert differences(Config(), other) == [("seed", 0, 1), ("model.depth", 20, 56)]


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("model", "depth", "20", "`model.depth` must be of type int; got '20'"),
        ("model", "depth", True, "`model.depth` must be of type int; got True"),
        ("model", "blocks", (1, "x"), "`model.blocks` must be of type"),
        ("train", "batch_size", 0, "`train.batch_size` must be at least 1"),
        ("train", "steps_per_call", 0, "`train.steps_per_call` must be at least 1"),
        ("train", "duration", "50 %", "`train.duration` must be in steps"),
        ("data", "repeats", 65, "`data.repeats` must be at most half of `train.batch_size`.*got 65 and 128"),
        ("train", "evaluate_every", "never", "`train.evaluate_every` must be an amount"),
        ("train", "log_every", "", "`train.log_every` must be an amount"),
        ("train", "label_smoothing", 1.0, "`train.label_smoothing` must be at least 0"),
        ("train", "ema", -0.1, "`train.ema` must be at least 0"),
        ("model", "width", float("inf"), "`model.width` must be finite; got inf"),
        ("data", "mean", (0.5, float("nan")), "`data.mean` must be finite"),
        ("train", "duration", "1e400 steps", "`train.duration` must be an amount"),
        ("model", "ghost_batch", 7, "`model.ghost_batch` must divide the 128 images"),
        ("data", "name", "cifar", "`data.name` must be one of"),
        ("train", "evaluate_every", "0 steps", "`train.evaluate_every` must be above 0; got '0 steps'"),
        ("train", "log_every", "0 %", "`train.log_every` must be above 0; got '0 %'"),
        ("checkpoint", "every", "0 epochs", "`checkpoint.every` must be above 0; got '0 epochs'"),
    ],
)
def test_wrong_fields(section, field, value, message):
    config = Config()
    setattr(getattr(config, section), field, value)
    with pytest.raises(InputError, match=message):
        check_config(config)


def test_seeds_stay_below_the_limit():
    config = Config(seed=2**31 - 2)
    check_config(config)
    config.train.seeds = 3
    with pytest.raises(InputError, match="`seed` must .* below 2..31; got 2147483646 with 3"):
        check_config(config)


def test_label_smoothing_is_for_classes():
    config = Config()
    config.model.output, config.train.label_smoothing = "identity", 0.1
    with pytest.raises(InputError, match="`train.label_smoothing` is for classes, and must be 0 .* got 0.1"):
        check_config(config)


def test_a_wrong_seed_or_section():
    with pytest.raises(InputError, match=r"`seed` must be at least 0"):
        check_config(Config(seed=-1))
    config = Config()
    config.model = config.train
    with pytest.raises(InputError, match=r"`model` must be a ModelConfig"):
        check_config(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "config.py"),
        ("x = 1", "has no function get_config"),
        ("def get_config(): return 3", "must return a resnet.config.Config; got 3"),
    ],
)
def test_wrong_config_files(tmp_path, text, message):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(path)


def test_a_config_file_that_is_not_there():
    with pytest.raises(InputError, match=r"'nowhere.py' does not exist"):
        load_config("nowhere.py")


def test_every_field_has_a_meaning():
    table = field_help(Config())
    assert len(table) > 50
    assert [name for name, _, _, meaning in table if len(meaning) < 4] == []


def test_leaf_configs_hash_and_compare():
    assert hash(Config()) == hash(Config())
    assert dataclasses.replace(Config(), seed=1) != Config()


SIBLING = """
from base import SEED
from helpers.more import WIDTH
from resnet.config import Config

def get_config():
    import late
    return Config(seed=SEED + late.SEED)
"""


def test_a_config_imports_the_files_beside_it_and_no_others_of_their_names(tmp_path):
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder / "helpers").mkdir(parents=True)
        (tmp_path / folder / "config.py").write_text(SIBLING)
        (tmp_path / folder / "base.py").write_text(f"SEED = {number}")
        (tmp_path / folder / "late.py").write_text("SEED = 5")
        (tmp_path / folder / "helpers" / "more.py").write_text("WIDTH = 1")
    sys.modules["base"] = another = types.ModuleType("base")
    before, paths = set(sys.modules), list(sys.path)
    try:
        assert [load_config(tmp_path / name / "config.py").seed for name in "aba"] == [5, 6, 5]
        assert sys.modules["base"] is another
    finally:
        del sys.modules["base"]
    assert not {"late", "helpers", "helpers.more"} & set(sys.modules)
    assert sys.path == paths and before - set(sys.modules) == {"base"}
