"""Nothing runs from data: checkpoints, data sets, weight files, runs and studies that somebody else made."""

import ast
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import resnet
from resnet.cli import options
from resnet.cli.commands import evaluate
from resnet.config import load_saved_config, save_config
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.published.tfds import open_prepared
from resnet.errors import InputError
from resnet.runs.provenance import origin
from resnet.runtime import machine
from resnet.studies.pages.report import Report, Table, html
from resnet.weights.files import read_weights, write_safetensors
from tests.each_file import each_file

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("resnet", "scripts") for path in (ROOT / folder).rglob("*.py"))
# What makes objects, and so runs code, of bytes; and what unpacks files to where an archive says.
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
ARCHIVES = {"tarfile", "zipfile"}
CALLS = {"eval", "exec", "compile", "__import__", "shutil.unpack_archive"}
CALLS |= {"os.system", "importlib.import_module", "runpy.run_path", "torch.load", "torch.jit.load"}
# Each with its reason: a config or study file is code; weights_only reads tensors and nothing else.
ALLOWED = {
    ("resnet/recipes.py", "runpy.run_path"),
    ("resnet/cli/main.py", "importlib.import_module"),  # of a name in its table
    ("resnet/weights/files.py", "torch.load"),
    ("resnet/weights/files.py", "pickle"),  # for the name of its error
    ("resnet/analysis/landscape.py", "zipfile"),  # likewise
    ("resnet/data/files/index.py", "zipfile"),  # likewise
    ("resnet/data/published/fetch.py", "tarfile"),  # reads members that we name, to names of ours
    ("resnet/data/files/shrink.py", "tarfile"),  # writes one
    ("resnet/data/files/tars.py", "tarfile"),  # lists members, and writes nothing
}


@each_file(SOURCES)
def test_the_source_has_no_other_way(path):
    name, found = path.relative_to(ROOT).as_posix(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & (LOADERS | ARCHIVES)
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).split(".")[0]} & (LOADERS | ARCHIVES)
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & CALLS
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("allow_pickle", "False") == "False" and "shell" not in keywords
            assert ast.unparse(node.func) != "torch.load" or keywords["weights_only"] == "True"
            assert ast.unparse(node.func) != "np.load" or "allow_pickle" in keywords, "say that it is False"
            if ast.unparse(node.func).endswith("Environment"):
                assert keywords["autoescape"] == "True"
    assert {(name, what) for what in found} <= ALLOWED


@pytest.fixture
def unpickled():
    """What pickles name while the test runs, by Python's own audit."""
    found, listening = [], [True]
    sys.addaudithook(
        lambda event, names: found.append(names) if event.startswith("pickle.") and listening else None
    )
    yield found
    listening.clear()


def test_a_run_and_weights_are_read_without_a_pickle(tmp_path, unpickled):
    run = resnet.load(ROOT / "tests" / "data" / "run_format2")
    assert np.isfinite(run.logits(np.zeros((1, *run.task.image_shape), np.uint8))).all()
    write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(3, np.float32)}, {})
    assert read_weights(tmp_path / "a.safetensors")["a"].shape == (3,)
    load_dataset(DataConfig(name="synthetic"))
    assert unpickled == []
    import pickle

    pickle.loads(pickle.dumps(Path("a")))
    assert unpickled  # the audit would have seen it


def test_the_folder_of_a_run_names_no_programs(tmp_path, monkeypatch):
    config = load_saved_config(shutil.copytree(ROOT / "tests" / "data" / "run_format2", tmp_path / "run"))
    config = dataclasses.replace(
        config, cache=dataclasses.replace(config.cache, dir=str(tmp_path / "programs"))
    )
    save_config(config, tmp_path / "run")
    kept = []
    monkeypatch.setattr(machine, "prepare", kept.append)
    with options.flags_of(evaluate.define):
        options.FLAGS(["", f"--workdir={tmp_path / 'run'}"])
        options.load_run_config([])
        options.load_run_config(["--config.cache.dir=mine"])
    assert [each.cache.dir for each in kept] == ["~/.cache/resnet", "mine"]


def test_a_prepared_data_set_that_names_code(tmp_path):
    """Its features are read as text: a class that they name is never imported."""
    own = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}
    feature = {"pythonClassName": "evil.module.Feature"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"name": "evil", "splits": []}))
    for text in (json.dumps(own | {"features": {"image": feature}}), "{"):
        (tmp_path / "features.json").write_text(text)
        with pytest.raises(InputError):
            open_prepared(tmp_path)
    assert "evil" not in sys.modules


def test_a_report_shows_what_it_is_given_as_text(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    (tmp_path / f"{'a'}.png").write_bytes(b"")
    report = Report(
        title=evil,
        status=evil,
        complete=False,
        paragraphs=[evil],
        tables=[Table(evil, (evil,), [(evil,)])],
        figures={"a.png": evil},
        origin=origin([{"command": evil, "git": None, "devices": {evil: evil}, "versions": {evil: evil}}]),
    )
    page = html(report, tmp_path)
    assert "<script" not in page and "<img src=x" not in page and page.count("&lt;script&gt;") > 10
