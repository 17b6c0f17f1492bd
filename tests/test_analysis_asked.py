"""What is asked: which images, of which weights, with which options, and what is kept between calls."""

import dataclasses
import math
import typing
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.text import Text

from resnet.analysis import kept, landscape, subject
from resnet.analysis.answer import Question
from resnet.analysis.options import Within
from resnet.analysis.questions import QUESTIONS
from resnet.analysis.sample import describe, draw
from resnet.config import Config, replaced
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.files import save_png
from resnet.runs.metrics import telemetry


def tiny(data="noise", images=8, seed=0, **model):
    config = Config()
    config.data.name = "digits"
    changes = {"family": "chain", "blocks": (2,), "width": 0.125} | model
    config = replaced(config, {f"model.{name}": value for name, value in changes.items()})
    return subject.of_config("$x$ _$", config, data, images, seed)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.integers(0, 9), st.integers(1, 100))
def test_a_sample_has_each_class_by_its_share_and_so_have_its_first_images(sizes, seed, count):
    labels = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)  # as a folder has them: class by class
    index, sample = draw(labels, count, data="test", seed=seed, classes=len(sizes))
    assert len(set(index.tolist())) == len(index) == sample.images == min(count, len(labels))
    for taken in (len(index), len(index) // 2):
        found = np.bincount(labels[index[:taken]], minlength=len(sizes))
        assert (abs(found - taken * np.array(sizes) / len(labels)) <= 2).all()
    found = np.bincount(labels[index], minlength=len(sizes))
    assert (sample.fewest, sample.classes) == (found.min(), (found > 0).sum())
    assert sample.small == (found.min() < 2)


def test_a_sample_says_of_how_many_and_warns_of_too_few(caplog):
    labels = np.repeat(np.arange(10, dtype=np.int32), 100)
    _, sample = draw(labels, 40, data="test", seed=3, classes=10)
    assert str(sample) == (
        "40 of 1,000 images (test, drawn by seed 3), 10 of 10 classes, at least 4 of each"
    )  # fmt: skip
    with caplog.at_level("WARNING"):
        _, few = draw(labels, 15, data="test", seed=3, classes=10)
    assert "too few, as 2 of each are the least; look at more images" in caplog.text and few.small
    targets = np.linspace(0, 1, 5, dtype=np.float32)
    assert str(draw(targets, 9, data="test", seed=0, classes=0)[1]) == "5 of 5 images (test)"
    assert str(describe(labels, of_images=None, data="noise", seed=0, classes=0)) == "1,000 images (noise)"


@pytest.mark.thorough
def test_images_of_a_split_that_is_sorted_by_class_are_of_all_classes(monkeypatch):
    dataset = load_dataset(tiny().config.data)
    order = np.argsort(dataset.test.labels, kind="stable")
    ordered = dataclasses.replace(dataset, test=dataset.test[order])
    monkeypatch.setattr(subject, "load_dataset", lambda *_: ordered)
    asked = tiny("test", images=40)
    assert set(np.asarray(asked.labels).tolist()) == set(range(10)) and not asked.sample.small
    again, other = tiny("test", images=40), tiny("test", images=40, seed=1)
    np.testing.assert_array_equal(asked.images, again.images)
    assert not np.array_equal(asked.images, other.images)
    first = asked.first(10)
    assert first.sample.images == 10 and first.sample.of_images == len(dataset.test)
    assert first.sample.classes >= 8 and first.sample.small


@pytest.mark.thorough
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_the_name_of_their_tensor(monkeypatch, value):
    asked = tiny()
    variables = jax.tree.map(np.array, asked.variables)
    variables["params"]["stage1"]["block1"]["conv1"]["kernel"][0, 0, 0, 0] = value
    run = SimpleNamespace(variables=variables, step=3)
    monkeypatch.setattr(subject, "load", lambda workdir, step: run)
    with pytest.raises(InputError, match=r"runs/a at step 3: tensor `params/stage1/block1/conv1/kernel` has"):
        subject.of_run("runs/a")


OUTSIDE = {int: (-1, 2**70), float: (0.0, -1.0, math.nan, math.inf)}
NUMBERS = [
    (name, field, hint)
    for name, question in QUESTIONS.items()
    for field, hint in typing.get_type_hints(question.Options).items()
    if hint in OUTSIDE or (typing.get_origin(hint) is tuple and typing.get_args(hint)[0] in OUTSIDE)
]


@pytest.mark.parametrize(("name", "field", "hint"), NUMBERS, ids=lambda value: str(value))
def test_every_number_of_every_question_has_bounds(name, field, hint):
    several = typing.get_origin(hint) is tuple
    for value in OUTSIDE[typing.get_args(hint)[0] if several else hint]:
        with pytest.raises(InputError, match=f"`--{field}` must be between") as error:
            QUESTIONS[name].Options(**{field: (value,) if several else value})
        assert "\n" not in str(error.value)


def test_too_much_and_nothing_are_refused_too():
    for name, options, message in (
        ("signal", {"depths": (10**9,)}, "`--depths` must be between 1 and 10,000; got 1000000000"),
        ("shattering", {"depths": ()}, "`--depths` needs at least one value"),
        ("landscape", {"points": 1}, "`--points` must be between 2 and 1,001; got 1"),
        ("landscape", {"direction_seed": 2**70}, "`--direction_seed` must be between 0 and 2,147,483,647"),
        ("lesion", {"counts": (1, 0)}, "`--counts` must be between 1 and 10,000; got 0"),
    ):
        with pytest.raises(InputError, match=message):
            QUESTIONS[name].Options(**options)
    for images in (0, 10**12):
        with pytest.raises(InputError, match="`--images` must be between 1 and 100,000"):
            tiny(images=images)
    with pytest.raises(InputError, match="`--images_seed` must be between 0 and"):
        tiny(seed=2**70)


def test_noise_is_another_by_another_seed():
    nets = [tiny(seed=seed) for seed in (0, 0, 7)]
    first, again, other = (net.images for net in nets)
    assert (first == again).all() and abs(first - other).min() > 0
    assert [str(net.sample) for net in nets[1:]] == [
        "8 images (noise)",
        "8 images (noise, drawn by seed 7)",
    ]


@pytest.mark.parametrize(("field", "value"), [("init_from", "runs/a"), ("init_whitened", 8)])
def test_a_net_that_does_not_start_at_random_is_no_net_at_its_start(field, value):
    config = replaced(Config(), {field: value})
    with pytest.raises(
        InputError, match=f"asked with random weights, and `{field}` is {value!r}; set {field}="
    ):
        subject.of_config("net", config)


def test_depths_and_seeds_are_not_those_of_a_run():
    run = dataclasses.replace(tiny(), step=5)
    for asked in ({"depths": (8,)}, {"seeds": 9}):
        for name in ("signal", "shattering"):
            with pytest.raises(InputError, match="is a run, which has one depth and seed; give --config=…"):
                QUESTIONS[name].ask(run, QUESTIONS[name].Options(**asked))


def test_telemetry_ends_at_the_step_that_is_asked(tmp_path):
    lines = [f"{step},stage1/block{i},0,0,0,0\n" for step in (0, 10, 20) for i in (1, 2)]
    (tmp_path / telemetry.FILE).write_bytes(telemetry.HEAD + "".join(lines).encode())
    run = dataclasses.replace(tiny(), name=str(tmp_path), step=10)
    asked = QUESTIONS["telemetry"]
    assert {row["step"] for row in asked.ask(run, asked.Options()).rows} == {0, 10}
    with pytest.raises(InputError, match="at its start, has nothing in telemetry.csv; train with"):
        asked.ask(dataclasses.replace(run, step=None), asked.Options())


def test_another_step_of_the_net_beside_is_told(monkeypatch):
    run = dataclasses.replace(tiny(), name="ours", step=100)
    for step, name in ((100, "theirs"), (500, "theirs, at step 500")):
        other = dataclasses.replace(run, name="theirs", step=step)
        monkeypatch.setattr(subject.Subject, "beside", lambda self, workdir, other=other: other)
        assert [net.name for net in run.and_against("theirs")] == ["ours", name]


def least(question: Question) -> typing.Any:
    """The options at the lower ends of their bounds."""
    hints = typing.get_type_hints(question.Options, include_extras=True)
    found = {}
    for name, hint in hints.items():
        plain = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        several = typing.get_origin(plain) is tuple
        item = typing.get_args(plain)[0] if several else hint
        for bounds in getattr(item, "__metadata__", ()):
            if isinstance(bounds, Within):
                found[name] = (bounds.least,) if several else bounds.least
    return question.Options(**found)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in QUESTIONS if name not in ("telemetry", "gates")])
def test_the_least_that_may_be_asked_is_answered(name, tmp_path):
    options = least(QUESTIONS[name])
    more = {"kept": str(tmp_path)} if name == "landscape" else {}
    more |= {"shortcuts": ("identity",), "orders": ("preactivation",)} if name == "trainability" else {}
    answer = QUESTIONS[name].ask(tiny(), dataclasses.replace(options, **more))
    assert answer.tables()
    picture = answer.plot()
    save_png(picture, tmp_path / "a.png")
    names = [
        text.get_text() for text in picture.findobj(Text) if "x" in text.get_text() and "$" in text.get_text()
    ]
    assert not any(map(is_math_text, names)), names


@pytest.mark.thorough
def test_another_net_with_the_same_weights_has_another_surface(tmp_path):
    options = landscape.Options(dimensions=1, points=3, kept=str(tmp_path))
    nets = [tiny(norm="none", shortcut=name) for name in ("identity", "none")]
    losses = [landscape.ask(net, options).losses for net in nets]
    assert not np.allclose(*losses)
    np.testing.assert_array_equal(landscape.ask(nets[1], options).losses, losses[1])
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_kept_is_found_by_everything_that_decides_it(monkeypatch):
    asked = tiny(norm="none", shortcut="identity")
    weights = jax.tree.map(lambda x: x + 1, asked.variables)
    keys = [
        kept.key(asked, "landscape", points=3),
        kept.key(asked, "landscape", points=4),
        kept.key(asked, "spectrum", points=3),
        kept.key(dataclasses.replace(asked, variables=weights), "landscape", points=3),
        kept.key(dataclasses.replace(asked, images=asked.images + 1), "landscape", points=3),
        kept.key(dataclasses.replace(asked, labels=asked.labels + 1), "landscape", points=3),
        kept.key(tiny(norm="none", shortcut="none"), "landscape", points=3),
    ]
    assert keys[0] == kept.key(tiny(norm="none", shortcut="identity"), "landscape", points=3)
    monkeypatch.setattr(kept, "code_version", lambda question: "later code")
    assert len({*keys, kept.key(asked, "landscape", points=3)}) == len(keys) + 1


def test_code_has_another_version_where_its_source_differs(tmp_path, monkeypatch):
    for place in ("analysis/landscape.py", "models/resnet.py", "kernels/pool.cc", "training/losses.py",
                  "analysis/subject.py", "analysis/settled.py"):  # fmt: skip
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("first")
    monkeypatch.setattr(kept, "_LIBRARY", tmp_path)
    found = set()
    for place in ("", "analysis/landscape.py", "models/resnet.py", "kernels/pool.cc", "training/losses.py"):
        if place:
            (tmp_path / place).write_text("second")
        found.add(kept.code_version.__wrapped__("landscape"))
    assert len(found) == 5


def test_a_kept_file_that_is_empty_and_a_file_for_a_folder_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    options = landscape.Options(dimensions=1, points=3, kept=str(tmp_path / "file" / "kept"))
    with pytest.raises(InputError, match="cannot make the folder .*; choose another"):
        landscape.ask(tiny(), options)
    with pytest.raises(InputError, match="is unreadable: .*; delete it to start anew"):
        landscape.evaluate_surface(lambda x: x, np.zeros((3, 1)), tmp_path / "file", "one", 4)
