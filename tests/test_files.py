"""What a user gives as a path, to a flag, a field or a function, and what becomes of it."""

import ast
import atexit
import errno
import functools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

import resnet
from resnet.cli import options
from resnet.config import Config, check_config, load_config, load_saved_config
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.files import check_writable, creating, free_name, local_path, replacing, save_png
from resnet.interop.convert import export_weights, import_weights
from resnet.interop.predict import find_images
from resnet.runs.task import Task
from resnet.runtime.cache import CacheConfig
from resnet.studies.stored import load_folder
from resnet.studies.study import load_study
from resnet.training.finetune import load_initial
from resnet.training.loop import train
from resnet.weights.files import read_weights

ROOT = Path(__file__).parents[1]


@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_a_path_without_a_tilde_or_a_scheme_is_itself(text):
    if not text.startswith("~") and "://" not in text:
        assert local_path(text) == Path(text) or str(Path(text)).startswith("~")


@given(st.sampled_from(["", "~", "~/", "./~", "./~x", "/~"]), st.text("ab~/. $", max_size=9))
def test_what_was_turned_into_a_path_once_stays_as_it_is(begin, rest):
    try:
        path = local_path(begin + rest)
    except InputError:
        return
    assert local_path(path) == path and not str(path).startswith("~")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_the_home_folder_is_expanded_and_a_file_of_that_name_is_not(home):
    assert local_path("~/a") == home / "a" and local_path(Path("~")) == home
    assert local_path("./~") == Path.cwd() / "~"
    with pytest.raises(InputError, match=r"~nobody_of_this_name has no home folder"):
        local_path("~nobody_of_this_name/a")


def test_folders_made_for_a_file_that_was_not_written_go(tmp_path, monkeypatch):
    ends = []
    monkeypatch.setattr(atexit, "register", lambda function, *folders: ends.append((function, folders)))
    check_writable(tmp_path / "a" / "b" / "c.csv", tmp_path / "d" / "e" / "f.csv", tmp_path / "d" / "g.csv")
    (tmp_path / "d" / "e" / "f.csv").touch()
    (tmp_path / "h").touch()
    with pytest.raises(InputError, match="cannot write"):
        check_writable(tmp_path / "h" / "i" / "j.csv")
    with pytest.raises(InputError, match="cannot write .*/d: it is a folder"):
        check_writable(tmp_path / "d")
    for function, folders in reversed(ends):
        function(*folders)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["d", "e", "f.csv", "h"]


TASK = Task("classification", (8, 8, 1), ("a", "b"), np.zeros(1), np.ones(1))
# What fails for a folder that is not there names the path that it looked at.
TAKERS = {
    "load": resnet.load,
    "load_config": load_config,
    "load_saved_config": load_saved_config,
    "load_study": lambda path: load_study(path, "small"),
    "load_folder": load_folder,
    "read_weights": read_weights,
    "find_images": lambda path: find_images([path]),
    "export_weights": lambda path: export_weights(path, "out.safetensors"),
    "data.dir": lambda path: load_dataset(DataConfig(name="image_folder", dir=path)),
    "init_from": lambda path: load_initial(Config(init_from=path), TASK),
}
REFUSERS = TAKERS | {
    "train": lambda path: train(Config(), path),
    "import_weights": lambda path: import_weights("a.safetensors", Config(), path),
    "check_writable": check_writable,
    "cache.dir": lambda path: check_config(Config(cache=CacheConfig(dir=path))),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_every_function_and_field_expands_the_home_folder(home, taker):
    with pytest.raises(InputError) as error:
        TAKERS[taker]("~/nothing.safetensors")
    assert str(home / "nothing.safetensors") in str(error.value)
    assert not Path("~").exists()


@pytest.mark.parametrize("taker", REFUSERS)
def test_every_function_and_field_refuses_what_is_no_local_path(home, taker):
    with pytest.raises(InputError, match=r"'gs://bucket/run' is no local path"):
        REFUSERS[taker]("gs://bucket/run")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("given", ["gs://b/run", "file:///tmp/run", Path("s3://b/run"), "a\0b"])
def test_what_no_local_file_system_has(given):
    with pytest.raises(InputError):
        local_path(given)


def test_flags_are_paths_and_lists_of_them(home, monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(options.flags, "DEFINE", functools.partial(flags.DEFINE, flag_values=values))
    options.define_path("workdir", None, "")
    options.define_path("output", "~/out", "")
    options.define_paths("runs", "")
    values(["", "--workdir=~/a b", "--runs=~/a,b"])
    assert (values.workdir, values.output) == (home / "a b", home / "out")
    assert values.runs == [home / "a", Path("b")]
    with pytest.raises(flags.Error, match="flag --workdir=gs://b/run: 'gs://b/run' is no local path"):
        values(["", "--workdir=gs://b/run"])
    values(["", "--workdir="])
    assert values.workdir is None


def test_no_script_takes_a_file_or_folder_as_mere_text():
    said = r"(Folders?|File|\w+ file|Another \w+ file)\b"  # as the meaning of a flag begins
    for path in [*ROOT.glob("scripts/**/*.py"), *ROOT.glob("resnet/cli/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                assert not any(re.match(said, str(text)) for text in texts), texts


def test_a_name_that_is_taken_is_never_given_again(tmp_path):
    """Whichever of those before were removed since."""
    assert free_name(tmp_path / "x") == tmp_path / "x"
    for name in ("x", "x.2", "x.10"):
        (tmp_path / name).touch()
    assert free_name(tmp_path / "x") == tmp_path / "x.1"
    (tmp_path / "x.1").symlink_to("nowhere")
    assert free_name(tmp_path / "x") == tmp_path / "x.3"


def test_each_file_of_a_folder_is_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    done, replace = [], os.replace

    def synced(file):
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        done.append(path.name)
        if path.is_dir():
            raise OSError(errno.EINVAL, "folders cannot be synced here")
        if path.read_text() == "refused":
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    with replacing(tmp_path / "made") as folder:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "a").write_text("content")
    assert "a" in done[: done.index("replace")] and (tmp_path / "made" / "inner" / "a").exists()
    with pytest.raises(OSError, match="full"), replacing(tmp_path / "other") as folder:
        folder.mkdir()
        (folder / "b").write_text("refused")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize(
    "name", ["a$b^$", "$\\frac$", r"\$", "no\udcffutf8", "100 % & _{", "freeze ^(a|b)$, ^c$"]
)
def test_a_name_is_drawn_letter_by_letter(name, tmp_path):
    figure = Figure()
    axes = figure.add_subplot(title=name, xlabel=f"{name} again", yscale="log")
    axes.plot([1, 2], [1, 100], label=name)
    axes.legend()
    figure.suptitle(name)
    save_png(figure, tmp_path / "a.png")
    shown = name.replace("\udcff", "?")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for text in [*figure.texts, axes.title, axes.xaxis.label, axes.get_legend().get_texts()[0]]:
        assert not is_math_text(text.get_text())
        assert text.get_text().replace(r"\$", "$").removesuffix(" again") == shown
    assert "10^{1}" in axes.get_yticklabels()[-2].get_text() + axes.get_yticklabels()[2].get_text()


def test_a_folder_without_a_name_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot write ., which has no name"), creating("."):
        pass
