"""A run that left: the program gives the same logits without our code, for batches of any size."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from resnet.cli import options
from resnet.cli.commands import export as command
from resnet.config import Config
from resnet.errors import InputError
from resnet.interop import onnx
from resnet.interop.card import model_card
from resnet.interop.deploy import export
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.run import Run, load
from resnet.runs.task import Task
from resnet.training.loop import train
from resnet.training.start import init_variables

SCRIPT = Path(__file__).parents[1] / "scripts" / "export.py"
CALL = """
import sys
import numpy as np
from jax import export
program = export.deserialize(open(sys.argv[1], "rb").read())
for n in (1, 3):
    np.save(f"{sys.argv[2]}.{n}.npy", program.call(np.load(sys.argv[2])[:n]))
assert not any(name.split(".")[0] in ("resnet", "flax") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def run():
    config = Config(model=ModelConfig(blocks=(1, 1, 1), width=0.25))
    names = ("cat", "dog", "eel")
    task = Task("classification", (8, 8, 3), names, np.full(3, 120, np.float32), np.full(3, 60, np.float32))
    model = make_model(config.model, task.num_outputs)
    variables = init_variables(jax.random.key(0), model=model, image_shape=task.image_shape)
    return Run(config, task, model, variables, 7, Path("none"))


@pytest.mark.thorough
def test_the_program_gives_the_same_logits_without_our_code(run, tmp_path):
    folder = tmp_path / "out"
    export(run, folder, licence="CC0-1.0")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    arguments = [folder / "model.stablehlo", tmp_path / "images.npy"]
    subprocess.run([sys.executable, "-c", CALL, *arguments], check=True, cwd=tmp_path, timeout=300)
    for n in (1, 3):
        logits = np.load(tmp_path / f"images.npy.{n}.npy")
        np.testing.assert_allclose(logits, run.logits(images[:n]), atol=1e-5)
    assert (folder / "classes.txt").read_text() == "cat\ndog\neel\n"
    card = (folder / "MODEL_CARD.md").read_text()
    assert "Licence: CC0-1.0" in card and "step 7" in card and "none recorded" in card
    assert "3 classes: cat, dog, eel" in card and "n at least 1, normalises" in card
    with pytest.raises(InputError, match="exists already"):
        export(run, folder)


def test_a_program_sees_both_sides_of_an_image_where_the_evaluation_does(run, tmp_path):
    config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, eval_flip=True))
    flipped = dataclasses.replace(run, config=config)
    export(flipped, tmp_path / "out")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    logits = np.asarray(program.call(images))
    np.testing.assert_allclose(logits, flipped.logits(images), atol=1e-5)
    np.testing.assert_allclose(logits, program.call(images[:, :, ::-1]), atol=1e-5)
    assert abs(logits - run.logits(images)).max() > 1e-3
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "evaluated with the mean of the logits of an image and its mirror image;" in card
    assert "the mean of those of each image and of its mirror image:" in card


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"shortcut": "identity"}, id="resnet", marks=pytest.mark.slow),
        pytest.param({"shortcut": "repvgg", "branch": "single"}, id="repvgg"),
    ],
)
def test_a_folded_program_gives_the_logits_of_the_run(fields, tmp_path, monkeypatch):
    """From a training to the exported program: its norms have seen images, so folding has something to do."""
    monkeypatch.setattr(options, "prepare_process", lambda config: None)  # this process has begun already
    config = Config(model=ModelConfig(blocks=(1, 1, 1), width=0.25, **fields))
    config.data.name, config.data.train_limit = "digits", 64
    config.train.batch_size, config.train.duration = 32, "4 steps"
    train(config, tmp_path / "run")
    trained, names = load(tmp_path / "run"), []
    folded = trained.folded()
    assert (folded.config.model.shortcut, folded.config.model.norm) == ("none", "none")
    images = np.random.default_rng(0).integers(0, 256, (3, *trained.task.image_shape), np.uint8)
    expected = trained.logits(images)
    for arguments in ([], ["--folded"]):
        names.append(tmp_path / f"program{len(arguments)}")
        options.run(
            command.main, command.define,
            [f"--workdir={tmp_path / 'run'}", f"--output={names[-1]}", *arguments],
        )  # fmt: skip
    whole, plain = ((name / "model.stablehlo").read_bytes() for name in names)
    assert plain != whole
    for program in (whole, plain):
        logits = jax.export.deserialize(bytearray(program)).call(images)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())
    np.testing.assert_allclose(folded.logits(images), expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


MODELS = {
    "cifar": ModelConfig(blocks=(1, 1, 1), width=0.25, dtype="bfloat16", scan_blocks=True),
    "imagenet": ModelConfig(
        family="imagenet", stem="deep", blocks=(1, 1, 1, 1), width=0.125, branch="bottleneck", groups=2,
        transition="average_projection", se_ratio=0.25,
    ),
    "bit": ModelConfig(
        family="imagenet", stem="bit", blocks=(1, 2, 1, 1), width=0.125, norm="group",
        activation_order="preactivation",
        norm_groups=4, weight_standardization="plain", transition="projection",
    ),
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("net", MODELS)
@pytest.mark.filterwarnings("ignore:::(jax2onnx|onnx|onnx_ir|flax)")
def test_onnx_gives_the_same_logits(net, run, tmp_path):
    for package in ("onnxruntime", "onnx", "jax2onnx"):
        pytest.importorskip(package, reason=f"{package}, an optional extra, is not installed")
    import onnxruntime

    side = 8 if net == "cifar" else 33
    task = dataclasses.replace(run.task, image_shape=(side, side, 3))
    model = make_model(dataclasses.replace(MODELS[net], dtype="float32"), 3)
    variables = init_variables(jax.random.key(0), model=model, image_shape=task.image_shape)
    given = Run(Config(model=MODELS[net]), task, model, variables, 7, Path("none"))
    done = export(given, tmp_path / "out", "onnx")
    assert done["difference"] <= onnx.WANTED  # `model` computes in float32
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for n in (1, 5):
        images = np.random.default_rng(n).integers(0, 256, (n, side, side, 3), np.uint8)
        (logits,) = session.run(["logits"], {"images": images})
        np.testing.assert_allclose(logits, given.logits(images), atol=1e-5)
    assert "onnxruntime.InferenceSession" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


@pytest.mark.thorough
def test_onnx_of_a_bfloat16_run_is_compared_with_the_run(run, tmp_path, monkeypatch):
    model = make_model(dataclasses.replace(run.config.model, dtype="bfloat16"), 3)
    lower = dataclasses.replace(run, model=model, config=Config(model=model.config))

    class Session:
        def __init__(self, *arguments, **options):
            pass

        def run(self, names, inputs):
            return [run.logits(inputs["images"])]  # what a program converted to float32 gives

    runtime = SimpleNamespace(InferenceSession=Session)
    converter = SimpleNamespace(to_onnx=lambda *a, **k: SimpleNamespace(SerializeToString=lambda: b"program"))
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setitem(sys.modules, "jax2onnx", converter)
    monkeypatch.setattr(onnx, "check_converter", lambda: None)
    random, expected = np.random.default_rng(0), 0.0
    for n in onnx.CHECKED:
        images = random.integers(0, 256, (n, 8, 8, 3), np.uint8)
        ours, theirs = np.asarray(lower.logits(images), np.float32), run.logits(images)
        expected = max(expected, float(abs(ours - theirs).max() / max(1, abs(ours).max())))
    done = export(lower, tmp_path / "bfloat16", "onnx")
    assert done["difference"] == pytest.approx(expected) and expected > onnx.ALLOWED
    card = (tmp_path / "bfloat16" / "MODEL_CARD.md").read_text()
    assert f"the run, which computes in bfloat16, by at most {expected:.1e} of the largest" in card
    assert export(run, tmp_path / "float32", "onnx")["difference"] == 0


def test_a_damaged_result_is_named_and_left_out_of_the_card(run, tmp_path, caplog):
    for name in ("result.json", "run.json"):
        for content in ("", "[]", '{"sessions": [5]}' if name == "run.json" else "5"):
            (tmp_path / name).write_text(content)
            caplog.clear()
            card = model_card(dataclasses.replace(run, workdir=tmp_path), "Call it:", "call()")
            assert f"{tmp_path / name} is damaged" in caplog.text
            assert "Made by" not in card and "top1" not in card
            assert (tmp_path / name).read_text() == content
        (tmp_path / name).unlink()


def test_the_card_has_the_metrics_of_these_weights_only(run, tmp_path):
    (tmp_path / "result.json").write_text('{"step": 7, "split": "test", "top1": 0.5, "n": 8, "seconds": 1}')
    sessions = '{"sessions": [{"command": "train", "git": {"commit": "abc", "dirty": true}}]}'
    (tmp_path / "run.json").write_text(sessions)
    card = model_card(dataclasses.replace(run, workdir=tmp_path), "Call it:", "call()")
    assert (
        "- Metrics: split test, top1 0.5, n 8\n- Made by: `train`, commit abc and uncommitted changes\n- Lic"
        in card
    )
    later = dataclasses.replace(run, workdir=tmp_path, step=9)
    assert "none recorded for this step" in model_card(later, "Call it:", "call()")


def test_onnx_where_it_is_not_installed(run, tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime", "onnx_ir", "jax2onnx"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="onnx, which this needs, is not installed: pip install -r"):
        export(run, tmp_path / "out", "onnx")
    assert not any(tmp_path.iterdir())


def test_an_onnx_program_with_other_logits_is_not_written(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime, an optional extra, is not installed")

    class Session:
        def __init__(self, *arguments, **options):
            pass

        def run(self, names, inputs):
            return [np.full((len(inputs["images"]), 3), 1e3, np.float32)]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr("jax2onnx.to_onnx", lambda *a, **k: SimpleNamespace(SerializeToString=lambda: b""))
    with pytest.raises(InputError, match=r"other logits, by \d.*nothing is written; use --format=stablehlo"):
        export(run, tmp_path / "out", "onnx")
    assert not any(tmp_path.iterdir())


def test_a_target_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        export(run, tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=none"], "--output=… is missing"),
        (
            ["--workdir=none", "--output=x", "--format=tflite"],
            "`--format` must be one of stablehlo, onnx; got 'tflite'",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
