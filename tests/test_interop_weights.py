"""Weights in and out: every tensor exactly once, bit for bit, and one clear line for what cannot be read."""

import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from resnet.config import Config, config_to_dict, replaced
from resnet.errors import InputError
from resnet.files import check_writable, creating
from resnet.interop.convert import export_weights, import_weights, state_of
from resnet.models.config import ModelConfig
from resnet.run import load
from resnet.runs.checkpoints.restore import variable_shapes
from resnet.runs.task import Task
from resnet.training.step import make_step
from resnet.weights import files
from resnet.weights.state_dict import detect, from_state_dict, to_state_dict

SMALL = {"blocks": (1, 1, 1), "width": 0.25}
IMAGENET = {"family": "imagenet", "blocks": (1, 2, 1, 1), "width": 0.125, "transition": "projection"}
BOTTLENECK = IMAGENET | {"stem": "imagenet", "branch": "bottleneck"}
NETS = {
    "cifar": ("cifar", ModelConfig(**SMALL, transition="projection")),
    "cifar_preact": ("cifar", ModelConfig(**SMALL, activation_order="preactivation")),
    "basic": ("torchvision", ModelConfig(**IMAGENET, stem="imagenet")),
    "squeeze": ("torchvision", ModelConfig(**BOTTLENECK, se_ratio=0.25)),
    "grouped": ("transformers", ModelConfig(**BOTTLENECK, groups=2)),
    "rs": ("timm", ModelConfig(**BOTTLENECK | {"stem": "deep_strided", "transition": "average_projection"})),
    "v2": ("timm_v2", ModelConfig(**BOTTLENECK, activation_order="preactivation", norm="layer")),
}


TASK = Task("classification", (32, 32, 3), ("a", "b", "c"), *np.zeros((2, 3), np.float32))


def shapes(model):
    return variable_shapes(Config(model=model), TASK)


def random_variables(model):
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes(model))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.thorough
@pytest.mark.parametrize("net", NETS)
def test_import_of_an_export_is_the_identity(net, tmp_path):
    naming, model = NETS[net]
    variables = random_variables(model)
    files.write_safetensors(tmp_path / "net.safetensors", to_state_dict(model, variables, naming), {})
    state = files.read_weights(tmp_path / "net.safetensors")
    back, found = from_state_dict(state, model, shapes(model))
    assert found == {"timm": "torchvision"}.get(naming, naming)
    assert_same(back, variables)


def test_names_and_layouts_are_theirs():
    naming, model = NETS["squeeze"]
    variables = random_variables(model)
    state = to_state_dict(model, variables, naming, batches=7)
    params = variables["params"]
    kernel = params["stage2"]["block2"]["conv2"]["kernel"]
    np.testing.assert_array_equal(state["layer2.1.conv2.weight"][3, 5], kernel[:, :, 5, 3])
    np.testing.assert_array_equal(state["fc.weight"], params["head"]["dense"]["kernel"].T)
    assert state["layer1.0.se.fc1.weight"].shape == (8, 32, 1, 1)
    assert state["bn1.num_batches_tracked"] == 7
    statistics = variables["batch_stats"]["stem"]["norm1"]["var"]
    np.testing.assert_array_equal(state["bn1.running_var"], statistics)


def test_a_net_of_another_architecture_lists_both_sides():
    naming, model = NETS["cifar"]
    state = to_state_dict(model, random_variables(model), naming)
    other = ModelConfig(**SMALL | {"blocks": (2, 1, 1)}, transition="projection")
    with pytest.raises(InputError, match=r"missing in the file: layer1\.1\.bn1\.running_mean, .* and 5 more"):
        from_state_dict(state, other, shapes(other))
    narrow = ModelConfig(**SMALL | {"width": 0.5, "transition": "projection"})
    with pytest.raises(
        InputError, match=r"layer1\.0\.bn1\.running_mean \(file \(4,\), net \(8,\)\), .* and \d+ more"
    ):
        from_state_dict(state, narrow, shapes(narrow))
    with pytest.raises(InputError, match=r"unexpected in the file: odd\.weight"):
        from_state_dict(state | {"odd.weight": np.zeros(1)}, model, shapes(model))


def test_unknown_names():
    naming, model = NETS["cifar"]
    with pytest.raises(InputError, match="none of the names of this net; theirs look like a, b"):
        detect({"b": 0, "a": 0}, model, shapes(model))
    with pytest.raises(InputError, match="`naming` must be one of"):
        from_state_dict({}, model, shapes(model), "keras")
    gated = ModelConfig(**SMALL, shortcut="exclusive_gating")
    with pytest.raises(InputError, match="no name for params/stage1/block1/shortcut/gate/bias"):
        to_state_dict(gated, random_variables(gated), naming)


def test_files_that_cannot_be_read(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file({"module.a": np.ones(3, np.float16), "module.n": np.array(3)}, whole)
    tensors = files.read_weights(whole)
    assert tensors["a"].dtype == np.float32 and tensors["n"] == 3
    half = tmp_path / "half.safetensors"
    half.write_bytes(whole.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"half\.safetensors is no whole safetensors file"):
        files.read_weights(half)
    with pytest.raises(InputError, match="does not exist"):
        files.read_weights(tmp_path / "no.pth")
    with pytest.raises(InputError, match="must end in"):
        (tmp_path / "weights.npz").touch()
        files.read_weights(tmp_path / "weights.npz")


def test_a_file_of_pytorch_without_pytorch(tmp_path, monkeypatch):
    (tmp_path / "net.pth").touch()
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"net\.pth is a PyTorch file: .* pip install -r requirements-torch"):
        files.read_weights(tmp_path / "net.pth")


class Payload:
    """Its pickle runs code when it is read, which here would raise ZeroDivisionError."""

    def __reduce__(self):
        return eval, ("1 / 0",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files(zipped, tmp_path):
    torch = pytest.importorskip("torch", reason="torch, an optional extra, is not installed")
    path = tmp_path / "net.pth"
    tensors = {"module.w": torch.ones(2, 3, dtype=torch.bfloat16), "module.n": torch.tensor(5)}
    checkpoint = {"epoch": 3, "state_dict": tensors}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    state = files.read_weights(path)
    assert state["w"].dtype == np.float32 and state["w"].shape == (2, 3) and state["n"] == 5
    whole = path.read_bytes()
    for size in (0, 1, 50, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"net\.pth is (no whole PyTorch file|damaged)") as raised:
            files.read_weights(path)
        assert "\n" not in str(raised.value)
    path.write_bytes(pickle.dumps({"state_dict": Payload()}))
    refusal = r"could run any code \(Unsupported (global: GLOBAL \S*eval|operand \d+)\): save"
    with pytest.raises(InputError, match=refusal):
        files.read_weights(path)
    torch.save({"state_dict": Payload()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=refusal):
        files.read_weights(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(InputError, match=r"net\.pth is damaged, or holds more than tensors"):
        files.read_weights(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="holds no state dict"):
        files.read_weights(path)


def test_a_failure_leaves_nothing_under_the_final_name(tmp_path):
    target = tmp_path / "target"
    with pytest.raises(RuntimeError), creating(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"), creating(tmp_path / "file" / "x"):
        pass
    with pytest.raises(InputError, match="cannot write"):
        check_writable(None, tmp_path / "y", tmp_path / "file" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def random_variables_of_digits(config):
    task = Task("classification", (8, 8, 1), tuple("0123456789"), np.zeros(1), np.zeros(1))
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: random.uniform(0.1, 1, leaf.shape).astype(np.float32), variable_shapes(config, task)
    )


@pytest.fixture
def imported(tmp_path):
    """(workdir, variables) of a small net that was imported for digits."""
    config = Config(model=ModelConfig(**SMALL))
    config.data.train_limit = 32
    variables = random_variables_of_digits(config)
    source = tmp_path / "source.safetensors"
    files.write_safetensors(source, to_state_dict(config.model, variables, "cifar"), {})
    done = import_weights(source, config, tmp_path / "run")
    assert done["naming"] == "cifar" and (tmp_path / "run" / "config.json").exists()
    return tmp_path / "run", variables


@pytest.mark.thorough
def test_an_imported_run_is_an_ordinary_one(imported, tmp_path):
    workdir, variables = imported
    run = load(workdir)
    assert run.step == 0 and run.config.model.bn_unbiased
    assert_same(jax.device_get(run.variables), variables)
    target = tmp_path / "out.safetensors"
    done = export_weights(workdir, target, licence="CC0-1.0")
    card = (tmp_path / "out.MODEL_CARD.md").read_text()
    assert done["card"].endswith("out.MODEL_CARD.md") and card.count("Licence: CC0-1.0") == 1
    for text in (
        "step 0",
        "10 classes: 0, 1, 2",
        "- Data: digits",
        "none recorded",
        "cifar naming",
        "commit",
    ):
        assert text in card
    state, source = load_file(target), load_file(tmp_path / "source.safetensors")
    assert state.keys() == source.keys()
    for name, tensor in source.items():
        np.testing.assert_array_equal(state[name], tensor)
    with pytest.raises(InputError, match="exists already"):
        import_weights(target, run.config, workdir)
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        export_weights(workdir, tmp_path / "out.pth")
    with pytest.raises(InputError, match=r"out\.safetensors exists already"):
        export_weights(workdir, target)
    target.unlink()
    with pytest.raises(InputError, match=r"out\.MODEL_CARD\.md exists already"):
        export_weights(workdir, target)
    assert not target.exists()


@pytest.mark.thorough
def test_what_our_own_file_states_is_heeded(tmp_path, caplog):
    """Settings that no shape tells; parts of 48 images, as no batch size is stated that they must divide."""
    config, source = Config(model=ModelConfig(**SMALL)), tmp_path / "source.safetensors"
    config.data.train_limit = 32
    fields = config_to_dict(config)["model"] | {"ghost_batch": 48}
    state = to_state_dict(config.model, random_variables_of_digits(config), "cifar")
    stated = {"resnet_config": fields, "mean": [200.0], "std": [10.0]}
    files.write_safetensors(source, state, {name: json.dumps(value) for name, value in stated.items()})
    with pytest.raises(InputError, match="`train.seeds` must be 1, as weights make one run; got 2"):
        import_weights(source, replaced(config, {"train.seeds": 2}), tmp_path / "run")
    with caplog.at_level("WARNING"):
        import_weights(source, replaced(config, {"model.activation": "silu"}), tmp_path / "run")
    assert "holds weights of a net with model.activation='relu', and here it is 'silu'" in caplog.text
    assert "was trained with data.mean=0.784, " in caplog.text
    assert not load(tmp_path / "run").config.model.bn_unbiased


@pytest.mark.parametrize(
    "fields",
    [{}, {"ema": 0.9}, {"on_divergence": "rollback", "spike_factor": 10.0}],
    ids=["", "ema", "guard"],
)
def test_an_imported_state_is_a_first_one_with_other_weights(fields):
    """The guard starts at a rate of 1; at 0 the run would never train."""
    config = Config(model=ModelConfig(**SMALL))
    for name, value in fields.items():
        setattr(config.train, name, value)
    variables = random_variables(config.model)
    state = state_of(variables, config, TASK)
    first = make_step(config, TASK, lambda step: 0.1).init(config.seed)
    own = {"params": first.params, "batch_stats": first.batch_stats, "ema": first.ema}
    assert_same(dataclasses.replace(state, **own), first)
    assert_same(state.variables, variables)


@pytest.mark.thorough
def test_import_without_data(tmp_path):
    config = Config(model=ModelConfig(**SMALL))
    config.data.name, config.data.dir, config.data.image_size = "image_folder", "none", 16
    config.data.mean, config.data.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    task = Task("classification", (16, 16, 3), ("cat", "dog"), np.zeros(3), np.zeros(3))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variable_shapes(config, task))
    source, classes = tmp_path / "source.safetensors", tmp_path / "classes.txt"
    files.write_safetensors(source, to_state_dict(config.model, variables, "cifar"), {})
    classes.write_bytes(b"\xef\xbb\xbfcat\r\ndog\r\n")  # as Windows' editors write it
    import_weights(source, config, tmp_path / "run", classes=classes)
    task = json.loads((tmp_path / "run" / "task.json").read_text())
    assert task["class_names"] == ["cat", "dog"] and task["mean"] == [127.5] * 3
    for text, message in (
        (b"cat\n", "must hold two or more"),
        (b"cat\ndog\ncat\n", "classes.txt has cat more than once"),
        (b"c\xff\ndog\n", "classes.txt cannot be read"),
    ):
        classes.write_bytes(text)
        with pytest.raises(InputError, match=message):
            import_weights(source, config, tmp_path / "run2", classes=classes)
    files.write_safetensors(
        source, to_state_dict(config.model, variables, "cifar"), {"class_names": '["dog", "cat"]'}
    )
    classes.write_text("cat\ndog\n")
    with pytest.raises(InputError, match=r"stand for \(dog, cat\), but the classes given are \(cat, dog\)"):
        import_weights(source, config, tmp_path / "run2", classes=classes)
    assert not (tmp_path / "run2").exists()
