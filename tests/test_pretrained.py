"""Published nets by name: what they take, and where their weights come from."""

import dataclasses
import functools
import http.server
import json
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import resnet
from resnet.errors import InputError
from resnet.interop.convert import export_weights
from resnet.interop.deploy import export
from resnet.interop.hub import About, _stated
from resnet.models.config import ModelConfig
from resnet.models.counts import count_parts, totals
from resnet.models.zoo import ZOO, KnownNet
from resnet.weights.files import write_safetensors
from resnet.weights.state_dict import to_state_dict
from tests.folder_cases import noted

README = Path(__file__).parents[1] / "README.md"
RUN = Path(__file__).parent / "data" / "run_format2"
TINY = ModelConfig(blocks=(1, 1, 1), width=0.25, pad_side="both")  # as the nets of these names have it


@pytest.fixture(autouse=True)
def zoo(monkeypatch):
    """Two small nets among the published: one of 8x8 pixels, and that of a run of an earlier release."""
    monkeypatch.setitem(ZOO, "tiny", KnownNet(TINY, 0, None, "", 10, (8, 8, 3)))
    monkeypatch.setitem(ZOO, "saved", KnownNet(resnet.load(RUN).config.model, 0, None, "", 10, (32, 32, 1)))


@functools.cache
def net_at_random():
    return resnet.make("tiny", num_classes=4)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture
def weights(tmp_path):
    """The file of a net with four outputs that says nothing else."""
    state = to_state_dict(TINY, net_at_random().variables, "cifar")
    write_safetensors(tmp_path / "net.safetensors", state, {})
    return tmp_path / "net.safetensors"


def assert_same(net, other):
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), net.variables, other.variables))


def test_importing_the_package_imports_no_jax():
    code = "import resnet, sys; assert not {'jax', 'numpy', 'flax'} & set(sys.modules); resnet.gone"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "AttributeError: module 'resnet' has no attribute 'gone'" in done.stderr


@pytest.mark.thorough
def test_images_are_bytes_or_floats_many_or_one(images):
    net = net_at_random()
    logits = net.logits(images)
    assert logits.shape == (3, 4) and net.task.class_names == ("0", "1", "2", "3")
    np.testing.assert_allclose(net.logits(images[1]), logits[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.logits(images / 255), logits, rtol=1e-3, atol=1e-5)
    by_hand, _ = net.model.apply(net.variables, net.normalized(images))
    np.testing.assert_allclose(by_hand, logits, rtol=1e-3, atol=1e-5)
    alone, _ = net.model.apply(net.variables, net.normalized(images[1]))
    np.testing.assert_allclose(alone, logits[1:2], rtol=1e-3, atol=1e-5)
    assert net.features(images[0])["stem"].shape == (8, 8, 4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(net)).logits(images), logits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.zeros((8, 8, 1), np.uint8),
            r"\(8, 8, 3\) or \(n, the same\); got uint8 of shape \(8, 8, 1",
        ),
        (np.zeros((8, 8, 3), np.int64), "must be uint8 or float, .*; got int64"),
        (
            np.full((8, 8, 3), 255.0),
            "that is pixels over 255; got values from 255 to 255",
        ),
        (np.full((8, 8, 3), np.nan), "must be from 0 to 1"),
    ],
)
def test_what_is_no_image_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        net_at_random().logits(wrong)


def test_a_file_that_says_nothing_of_itself(weights, images):
    net = resnet.make("tiny", weights=weights)
    assert_same(net, net_at_random())
    assert net.model.config.bn_unbiased and net.task.num_outputs == 4
    np.testing.assert_array_equal(net.logits(images), net_at_random().logits(images))


def test_another_number_of_classes_has_a_head_at_random(weights):
    net = resnet.make("tiny", 7, weights)
    given = net_at_random().variables["params"]
    params = net.variables["params"]
    assert params["head"]["dense"]["kernel"].shape[1] == net.task.num_outputs == 7
    for part in ("stem", "stage1", "stage3"):
        jax.tree.map(np.testing.assert_array_equal, params[part], given[part])


@pytest.mark.thorough
def test_a_run_and_its_exported_file_bring_what_they_know(tmp_path):
    run = resnet.load(RUN)
    parameters, _ = totals(count_parts(run.config.model, 10, (8, 8, 1)))
    told = f"{parameters:,} parameters, from images (8, 8, 1) to 10 outputs"
    assert repr(run) == f"<Run of {RUN}, step {run.step}: <Net of {told}>>"
    export_weights(RUN, tmp_path / "run.safetensors")
    images = np.random.default_rng(0).random((2, *run.task.image_shape), np.float32)
    for weights in (RUN, tmp_path / "run.safetensors"):
        net = resnet.make("saved", weights=weights)
        assert net.task.class_names == run.task.class_names and net.model.config == run.config.model
        np.testing.assert_array_equal(net.logits(images), run.logits(images))


@pytest.mark.thorough
def test_an_exported_file_says_that_both_sides_of_an_image_count(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    saved["data"]["eval_flip"] = True
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved))
    export_weights(tmp_path / "run", tmp_path / "run.safetensors")
    assert resnet.load(tmp_path / "run").net.flip and not resnet.load(RUN).net.flip
    assert resnet.make("saved", weights=tmp_path / "run.safetensors").flip
    card = (tmp_path / "run.MODEL_CARD.md").read_text()
    assert "evaluated with the mean of the logits of an image and its mirror image" in card


def test_weights_of_another_net_are_refused(weights):
    with pytest.raises(InputError, match="run_format2 holds another net than tiny: .* in tiny"):
        resnet.make("tiny", weights=RUN)
    with pytest.raises(InputError, match="the weights are not of this net"):
        resnet.make("resnet20", weights=weights)
    with pytest.raises(InputError, match="unknown net 'resnet52'; did you mean"):
        resnet.make("resnet52")
    for arguments, message in (
        ({"num_classes": 0}, "`num_classes` must be at least 1; got 0"),
        ({"seed": -1}, "`seed` must be at least 0; got -1"),
        ({"image_shape": (64, 64)}, r"`image_shape` must be \(height, width, channels\), all above 0; got"),
        ({"image_shape": (0, 0, 3)}, "`image_shape` must be .* got"),
    ):
        with pytest.raises(InputError, match=message):
            resnet.make("tiny", **arguments)


@pytest.mark.thorough
def test_the_size_of_evaluation_goes_into_the_file(tmp_path, monkeypatch):
    """And an exported program takes images of that size."""
    run = resnet.load(RUN)
    side = run.task.image_shape[0] * 2
    data = dataclasses.replace(run.config.data, name="image_folder", dir="x", image_size=side // 2)
    data = dataclasses.replace(data, eval_size=side, eval_crop=0.875)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, data=data))
    monkeypatch.setattr("resnet.interop.convert.load", lambda *_: run)
    export_weights(RUN, tmp_path / "run.safetensors")
    net = resnet.make("saved", weights=tmp_path / "run.safetensors")
    assert (net.size, net.crop) == (side, 0.875) == (run.net.size, run.net.crop)
    assert (
        f"evaluated on the middle 87.5% of the shorter side at {side}x{side}"
        in next(tmp_path.glob("*.md")).read_text()
    )
    larger = (3 * side, 3 * side, run.task.image_shape[2])
    assert resnet.make("saved", weights=tmp_path / "run.safetensors", image_shape=larger).size == 0
    export(run, tmp_path / "out")
    program = jax.export.deserialize((tmp_path / "out" / "model.stablehlo").read_bytes())
    assert program.in_avals[0].shape[1:] == run.net.evaluated_shape == (side, side, run.task.image_shape[2])


def test_another_size_of_images_is_for_the_same_channels():
    shape = resnet.load(RUN).task.image_shape
    larger = (2 * shape[0], 2 * shape[1], shape[2])
    net = resnet.make("saved", weights=RUN, image_shape=larger)
    assert net.logits(np.zeros(larger, np.uint8)).shape == (10,)
    with pytest.raises(InputError, match="`image_shape` must be .*, as the weights have it; got"):
        resnet.make("saved", weights=RUN, image_shape=(*shape[:2], shape[2] + 1))


def test_a_picture_is_resized_and_cropped(tmp_path):
    columns = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], (10, 20, 3))
    Image.fromarray(columns).save(tmp_path / "a.png")
    whole = net_at_random().read(tmp_path / "a.png")
    assert whole.shape == (8, 8, 3)
    cropped = dataclasses.replace(net_at_random(), crop=0.8).read(tmp_path / "a.png")
    # A side of 10 that is not resized: columns 5 to 14 about the centre, of which the crop keeps 8.
    np.testing.assert_array_equal(cropped[0, :, 0], np.arange(60, 140, 10))
    assert np.ptp(whole) > np.ptp(cropped)


CONFIG = {
    "architecture": "tiny",
    "label_names": ["cat", "dog", "cow", "fox"],
    "pretrained_cfg": {"input_size": [3, 8, 8], "crop_pct": 0.8, "mean": [0.5] * 3, "std": [0.25] * 3},
}


@pytest.fixture
def hub(tmp_path, weights, monkeypatch):
    """The files of a server on this machine that answers as Hugging Face does, for timm/tiny.test."""
    constants = pytest.importorskip("huggingface_hub.constants")
    files = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": weights.read_bytes()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = files.get(self.path.removeprefix("/timm/tiny.test/resolve/main/"))
            self.send_response(200 if content else 404)
            if not content:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("ETag", f'"{len(content or b"")}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.thorough
def test_weights_come_from_hugging_face_with_what_is_said_of_them(hub, images, monkeypatch):
    lines = noted(monkeypatch)
    net = resnet.make("tiny", weights="timm/tiny.test")
    assert_same(net, net_at_random())
    assert net.task.class_names == ("cat", "dog", "cow", "fox") and net.crop == 0.8
    np.testing.assert_array_equal(net.task.mean, [127.5] * 3)
    normal, _ = net.model.apply(net.variables, (jnp.asarray(images) / 255 - 0.5) / 0.25)
    np.testing.assert_allclose(net.logits(images), normal, rtol=1e-3, atol=1e-5)
    assert not lines and resnet.make("tiny", 10, "timm/tiny.test").task.num_outputs == 10
    assert lines == ["the head begins at random: the weights have 4 outputs"]


def test_another_way_to_resize_is_told(monkeypatch):
    lines = noted(monkeypatch)
    about = About((8, 8, 3), np.zeros(3), np.ones(3))
    for how in ("bilinear", "bicubic"):
        _stated({"pretrained_cfg": {"interpolation": how}}, about)
    assert lines == ["their images were resized by the method bicubic, ours are by bilinear: scores may move"]


def test_what_hugging_face_has_not_is_one_line(hub):
    with pytest.raises(InputError, match="no file or folder timm/gone, and config.json of that name"):
        resnet.make("tiny", weights="timm/gone")
    with pytest.raises(InputError, match="tiny.test holds weights of tiny, not of resnet20; make"):
        resnet.make("resnet20", weights="timm/tiny.test")
    del hub["model.safetensors"]
    with pytest.raises(InputError, match="model.safetensors of that name on Hugging Face cannot be fetched"):
        resnet.make("tiny", weights="timm/tiny.test")


@pytest.mark.slow
def test_the_lines_of_the_readme():
    section = README.read_text().split("## Use it in Python")[1]
    code = section.split("```python")[1].split("```")[0]
    images = np.random.default_rng(0).random((2, 224, 224, 3), np.float32)
    found = {"images": images}
    exec(code, found)
    assert found["logits"].shape == (2, 10) and found["features"]["pooled"].shape == (2, 2048)
    assert set(found["updates"]) == {"batch_stats"}
