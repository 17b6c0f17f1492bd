"""Fine-tuning: what is taken from a run or a weight file, what starts anew, and what stays as it is."""

import copy
import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest
from absl import logging

from resnet.config import Config, check_config
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.interop.convert import export_weights, import_weights
from resnet.paths import leaf_paths
from resnet.run import load
from resnet.runs.task import task_of
from resnet.runtime.devices import make_mesh
from resnet.training.finetune import begin, load_initial
from resnet.training.loop import train
from resnet.training.optimizers import make_optimizer
from resnet.training.trainer import make_trainer
from resnet.weights import files
from resnet.weights.files import write_safetensors
from resnet.weights.state_dict import to_state_dict

FROZEN = "^(stem|stage1)/"


def tiny(**fields):
    config = Config()
    config.data.name, config.data.train_limit = "digits", 64
    config.model.blocks, config.model.width = (1, 1, 1), 0.25
    config.train.batch_size, config.train.duration = 16, "3 steps"
    config.schedule.learning_rate = 0.1
    for name, value in fields.items():
        section, _, field = name.rpartition("__")
        setattr(getattr(config, section) if section else config, field, value)
    return config


def angles(**fields):
    """One output instead of ten classes."""
    return tiny(data__name="digits_rotation", model__output="identity", **fields)


def flat(variables):
    """Arrays by path without the collection; statistics and parameters have different names."""
    leaves = map(np.asarray, jax.tree.leaves(variables))
    return dict(zip((path.split("/", 1)[1] for path in leaf_paths(variables)), leaves, strict=True))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run, and its weights as a file."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    train(tiny(), workdir)
    run = load(workdir)
    weights = workdir.parent / "weights.safetensors"
    write_safetensors(weights, to_state_dict(run.config.model, run.variables, "cifar"), {})
    return workdir, weights, flat(run.variables)


def first_state(config):
    """The state before the first step."""
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
    state = begin(trainer.step.init(config.seed), trainer.initial)
    return flat({"params": state.params, "batch_stats": state.batch_stats}), state


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [0, 1], ids=["run", "file"])
def test_everything_is_taken(source, kind):
    found, state = first_state(tiny(seed=5, init_from=str(source[kind]), train__ema=0.9))
    assert found.keys() == source[2].keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value, source[2][path])
    np.testing.assert_array_equal(
        state.ema["params"]["stem"]["conv1"]["kernel"], source[2]["stem/conv1/kernel"]
    )


@pytest.mark.thorough
def test_a_new_head_is_drawn_by_the_seed(source):
    given, state = first_state(angles(seed=5, init_from=str(source[0]), init_drop="^head/"))
    drawn, _ = first_state(angles(seed=5))
    for path, value in given.items():
        expected = drawn if path.startswith("head/") else source[2]
        np.testing.assert_array_equal(value, expected[path])
    other, _ = first_state(angles(seed=6, init_from=str(source[0]), init_drop="^head/"))
    assert (other["head/dense/kernel"] != given["head/dense/kernel"]).any()
    assert state.step == 0


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [0, 1], ids=["run", "file"])
def test_what_does_not_fit_is_named_with_the_remedy(source, kind, tmp_path):
    config = angles(init_from=str(source[kind]))
    message = "of another shape: head/dense/bias (there (10,), here (1,)), head/dense/kernel"
    with pytest.raises(InputError, match=re.escape(message) + r".*set --config.init_drop='\^head/dense/'"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    deeper = tiny(init_from=str(source[kind]), model__blocks=(1, 2, 1))
    task = task_of(load_dataset(deeper.data))
    with pytest.raises(InputError, match=r"missing there: stage2/block2/.*and 5 more.*='\^stage2/block2/'"):
        load_initial(deeper, task)
    of = {"init_from": str(source[0]), "init_drop": "^head/"}
    with pytest.raises(InputError, match=r"set --config.init_drop='\^head/\|/shortcut/'"):
        load_initial(tiny(**of, model__shortcut="rezero"), task)
    with pytest.raises(InputError, match="No other part of it fits: choose the weights of this net"):
        load_initial(tiny(**of, model__width=0.5), task)


@pytest.mark.thorough
def test_the_remedy_for_what_the_net_does_not_know_works(source, tmp_path):
    weights = files.read_weights(source[1])
    weights |= {name: np.zeros(3, np.float32) for name in ("extra", "layer9.1.conv1.weight", "layer9.2.x")}
    larger = tmp_path / "larger.safetensors"
    write_safetensors(larger, weights, {})
    task = task_of(load_dataset(tiny().data))
    with pytest.raises(InputError, match="not in this net: extra, layer9") as refused:
        load_initial(tiny(init_from=str(larger)), task)
    regex = re.search("init_drop='(.*)'", str(refused.value))[1]
    assert regex == r"^(extra$|layer9\.)"
    assert len(load_initial(tiny(init_from=str(larger), init_drop=regex), task)) == len(source[2])
    statistics = load_initial(tiny(init_from=str(larger), init_drop=f"{regex}|norm1/mean$"), task)
    assert len(statistics) == len(source[2]) - 4


@pytest.mark.thorough
@pytest.mark.parametrize("classes", [tuple("9876543210"), tuple("abcdefghij")], ids=["order", "names"])
def test_a_head_is_kept_for_the_same_classes_alone(source, classes, monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "info", lambda text, *values: lines.append(text % values))
    config = tiny(init_from=str(source[0]))
    task = task_of(load_dataset(config.data))
    load_initial(config, task)
    load_initial(tiny(init_from=str(source[1])), task)
    kept = "the head is kept from {}, {} (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)"
    assert kept.format(source[0], "trained for the same") in lines
    assert kept.format(source[1], "which names no classes: its outputs stand for") in lines
    others = dataclasses.replace(task, class_names=classes)
    message = re.escape(
        f"a head for the classes ({', '.join('0123456789')}), these data have ({classes[0]}, "
    )
    with pytest.raises(InputError, match=message + r".*set --config\.init_drop='\^head/dense/'"):
        load_initial(config, others)
    dropped = load_initial(tiny(init_from=str(source[0]), init_drop="^head/"), others)
    assert dropped and not any("/head/" in path for path in dropped)


@pytest.mark.thorough
def test_sources_and_expressions_that_cannot_be_used(source, tmp_path):
    task = task_of(load_dataset(tiny().data))
    with pytest.raises(InputError, match="none does not exist"):
        load_initial(tiny(init_from=str(tmp_path / "none")), task)
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_initial(tiny(init_from=str(tmp_path)), task)
    with pytest.raises(InputError, match="`init_drop`: 'heed' matches no parameter"):
        load_initial(tiny(init_from=str(source[0]), init_drop="heed"), task)
    with pytest.raises(InputError, match="`freeze`: 'heed' matches no parameter"):
        first_state(tiny(freeze="heed"))
    with pytest.raises(InputError, match=r"`model\.bn_fixed`: 'conv' matches no parameter"):
        first_state(tiny(model__bn_fixed="conv"))
    with pytest.raises(
        InputError, match=r"'norm1/mean\$' matches no parameter; their paths look like '.*norm1/'"
    ):
        first_state(tiny(model__bn_fixed="norm1/mean$"))
    for field in ("freeze", "init_drop", "model__bn_fixed"):
        with pytest.raises(InputError, match="'\\(' is no regular expression"):
            check_config(tiny(init_from="x", **{field: "("}))
    with pytest.raises(
        InputError, match="`init_drop` says what not to take from `init_from`, which is empty"
    ):
        check_config(tiny(init_drop="^head/"))


@pytest.mark.thorough
@pytest.mark.parametrize(("optimizer", "fixed"), [("sgd", ""), ("adamw", "^stem/norm1/")])
def test_frozen_parameters_keep_their_bits_and_statistics_by_choice(source, optimizer, fixed, tmp_path):
    fields = {"init_from": str(source[0]), "freeze": FROZEN, "optimizer__name": optimizer}
    fields |= {"train__ema": 0.5 if optimizer == "sgd" else 0.0, "optimizer__clip_norm": 1.0}
    train(tiny(**fields, model__bn_fixed=fixed), tmp_path)
    found = flat(load(tmp_path).variables)
    for path, start in source[2].items():
        frozen, statistic = re.search(FROZEN, path), path.endswith(("mean", "var"))
        same = np.array_equal(found[path].view(np.int32), start.view(np.int32))
        assert same == bool(fixed and path.startswith("stem/") if statistic else frozen), path


@pytest.mark.thorough
def test_seeds_are_tuned_together_as_each_alone(source, tmp_path):
    fields = {"init_from": str(source[0]), "init_drop": "^head/", "freeze": FROZEN, "model__bn_fixed": FROZEN}
    train(tiny(**fields, train__seeds=2), tmp_path / "both")
    both = [flat(load(tmp_path / "both" / f"seed{seed}").variables) for seed in (0, 1)]
    train(tiny(**fields, seed=1), tmp_path / "alone")
    for path, value in flat(load(tmp_path / "alone").variables).items():
        np.testing.assert_allclose(both[1][path], value, rtol=1e-3, atol=1e-5, err_msg=path)
        frozen = re.search(FROZEN, path)
        assert np.array_equal(both[0][path], both[1][path]) == bool(frozen), path
        assert not frozen or np.array_equal(both[0][path], source[2][path]), path


@pytest.mark.thorough
def test_no_gradient_goes_where_nothing_is_learned():
    config = tiny(freeze=".")
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
    state = trainer.start()
    before = jax.device_get(state.params)
    state, metrics = trainer.train()(state, trainer.batch(range(1)))
    assert metrics["grad_norm"] == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, before)


def test_a_frozen_zero_keeps_its_sign():
    config = Config().optimizer
    params = {"a": np.array([-0.0, 0.0, 1.0], np.float32)}
    optimizer = make_optimizer(config, lambda step: 0.1, freeze="a")
    updates, _ = optimizer.update({"a": np.ones(3, np.float32)}, optimizer.init(params), params)
    np.testing.assert_array_equal(np.signbit(params["a"] + updates["a"]), [True, False, False])


@pytest.mark.thorough
def test_a_run_that_goes_on_needs_its_source_no_more(source, tmp_path):
    shutil.copytree(source[0], tmp_path / "source")
    config = tiny(init_from=str(tmp_path / "source"))
    result = train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "source")
    (tmp_path / "run" / "result.json").unlink()
    again = train(config, tmp_path / "run")
    assert again["loss"] == result["loss"]


@pytest.mark.thorough
def test_features_of_a_run_are_its_nets_in_order(source):
    run = load(source[0])
    images = load_dataset(tiny().data).test.images[:3]
    features = run.features(images)
    assert list(features) == ["stem", "stage1/block1", "stage2/block1", "stage3/block1", "pooled"]
    head = run.variables["params"]["head"]["dense"]
    logits = features["pooled"] @ head["kernel"] + np.asarray(head["bias"])[None]
    np.testing.assert_allclose(logits, run.logits(images), atol=1e-5)
    with pytest.raises(InputError, match="images must be uint8 or float, of shape"):
        run.features(images.astype(np.int64))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_starts_from_what_is_not_finite(source, tmp_path, value):
    tensors = files.read_weights(source[1])
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)  # the head's kernel
    tensors[name] = np.full_like(tensors[name], value)
    broken = tmp_path / "broken.safetensors"
    write_safetensors(broken, tensors, {})
    config = tiny(init_from=str(broken))
    task = task_of(load_dataset(config.data))
    with pytest.raises(
        InputError, match=r"broken.safetensors': head/dense/kernel has numbers that are not fin"
    ):
        load_initial(config, task)
    assert load_initial(tiny(init_from=str(broken), init_drop="^head/"), task)  # not taken, so no matter
    with pytest.raises(InputError, match=f"broken.safetensors: {name} has numbers that are not finite"):
        import_weights(broken, tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_normalisation_is_a_warning(source, caplog):
    config = copy.deepcopy(tiny(init_from=str(source[0])))
    config.data.mean = (0.9,)
    load_initial(config, task_of(load_dataset(config.data)))
    assert "was trained with data.mean=" in caplog.text


@pytest.mark.parametrize("kind", [0, 1], ids=["run", "file"])
def test_another_function_of_the_same_weights_is_a_warning(source, kind, tmp_path, caplog):
    own = tmp_path / "own.safetensors"
    export_weights(source[0], own, naming="cifar")
    config = tiny(init_from=str((source[0], own)[kind]), model__activation="silu", model__norm_epsilon=0.1)
    load_initial(config, task_of(load_dataset(config.data)))
    assert caplog.text.count("it computes another thing") == 2


def test_the_norm_before_a_classifier_is_no_part_of_it(tmp_path):
    config = tiny(model__activation_order="preactivation")
    task = task_of(load_dataset(config.data))
    variables = make_trainer(config, load_dataset(config.data), make_mesh(1)).step.init(0)
    net = {"params": variables.params, "batch_stats": variables.batch_stats}
    write_safetensors(
        tmp_path / "a.safetensors", to_state_dict(config.model, net, "cifar"), {"class_names": '["a"]'}
    )
    config = dataclasses.replace(config, init_from=str(tmp_path / "a.safetensors"))
    with pytest.raises(InputError, match=r"set --config.init_drop='\^head/dense/'"):
        load_initial(config, task)
    kept = load_initial(dataclasses.replace(config, init_drop="^head/dense/"), task)
    assert {path for path in kept if "/head/" in path} == {
        f"{collection}/head/norm/{name}"
        for collection, names in {"params": ("scale", "bias"), "batch_stats": ("mean", "var")}.items()
        for name in names
    }
