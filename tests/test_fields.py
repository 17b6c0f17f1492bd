"""Configs take declared fields only: in files, on the command line, in JSON and in Python."""

import copy
import dataclasses
import json
import pickle

import pytest

from resnet.cli import options
from resnet.config import Config, config_from_dict, field_types, load_config
from resnet.errors import InputError
from resnet.fields import Fields
from tests.tally import record, tries

SECTIONS = [field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)]
NAMES = [*field_types(), *SECTIONS]


def misspelt(name: str) -> list[str]:
    """A dotted name with a letter less, one more, and two swapped, where these are no names of fields."""
    found = {name[:-1], name + "x", name[:-2] + name[-1] + name[-2]}
    return sorted(other for other in found if other not in NAMES and not other.endswith("."))


def in_turn(wrong: list[str], i: int) -> list[str]:
    """All of them where much is tried, else one."""
    return wrong[: tries(0)] or [wrong[i % len(wrong)]]


def message(function, *arguments) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    return str(error.value)


def assigned(name: str) -> None:
    """Sets a dotted field as a config file does."""
    exec(f"c.{name} = 3", {"c": Config()})


@pytest.mark.thorough
def test_every_misspelt_field_is_refused_in_a_file_as_on_the_command_line():
    # One way for each in the suite, which has no time for all.
    tried = [(name, wrong) for i, name in enumerate(NAMES) for wrong in in_turn(misspelt(name), i)]
    for name, wrong in tried:
        said = message(assigned, wrong)
        assert f"unknown field `{wrong}`; did you mean " in said and f"`{name}`" in said
        assert message(options.override, Config(), [f"--config.{wrong}=3"]) == said
    assert len(tried) >= len(NAMES)
    happens = (
        "refused by the same line in a file and on the command line, which names the field that was meant"
    )
    record("misspelt", "every field misspelt by a letter", happens, len(tried))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "c.train.label_smoothng = 0.1",
            "unknown field `train.label_smoothng`; did you mean `train.label_smo",
        ),
        ("c.schedule.lr = 0.1", "unknown field `schedule.lr`; did you mean `schedule.learning_rate`"),
        ("c.optimizer.epochs = 3", "unknown field `optimizer.epochs`; did you mean `train.duration`"),
        ("c.optimiser.name = 'adamw'", "unknown field `optimiser`; did you mean `optimizer`"),
        ("c.optimiser = c.optimizer", "unknown field `optimiser`; did you mean `optimizer`"),
        ("c.model = type(c.model)(dept=20)", "unknown field `model.dept`; did you mean `model.depth`"),
        ("c = Config(sed=1)", "unknown field `sed`; did you mean `seed`"),
        ("c = dataclasses.replace(c, freze='')", "unknown field `freze`; did you mean `freeze`"),
        ("del c.model", "`model` is missing"),
        ("c.model = c.train", "`model` must be a ModelConfig"),
        ("c.model = None", "`model` must be a ModelConfig; got None"),
        ("c = Confg()", ", line 5: NameError: name 'Confg' is not defined"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, text, said):
    path = tmp_path / "config.py"
    path.write_text(
        "import dataclasses\nfrom resnet.config import Config\n"
        f"def get_config():\n    c = Config()\n    {text}\n    return c\n"
    )
    assert said in message(load_config, path)


def test_an_error_deeper_than_the_file_keeps_its_traceback(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("import json\ndef get_config():\n    json.loads('')\n")
    with pytest.raises(json.JSONDecodeError):
        load_config(path)
    path.write_text("def get_config(size):\n    pass\n")
    assert f"config file {path}: TypeError: get_config() missing" in message(load_config, path)


def test_json_with_wrong_names_or_sections():
    assert "unknown field `train.emma`; did you mean `train.ema`" in message(
        config_from_dict, {"train": {"emma": 0.5}}
    )
    assert "unknown field `nets`" in message(config_from_dict, {"nets": {"depth": 20}})
    assert "`model` must be a ModelConfig; got 3" in message(config_from_dict, {"model": 3})


def test_python_finds_in_a_config_what_it_looks_for():
    config = Config(seed=3)
    assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))
    assert not hasattr(config, "sed") and getattr(config.model, "dept", 4) == 4


def test_every_section_says_where_it_is():
    kinds = {kind._section: kind for kind in Fields.__subclasses__()}
    assert kinds == {"": Config} | {f.name: f.type for f in dataclasses.fields(Config) if f.name in SECTIONS}
