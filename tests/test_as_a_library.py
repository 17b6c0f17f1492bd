"""Use of the package from Python, without a command: what objects keep of a config, and what is refused."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

import resnet
from resnet.data.augment import Cutout, augment, parse_operation
from resnet.data.augmentation.mixing import Mixing
from resnet.data.config import DataConfig
from resnet.data.datasets import load_split
from resnet.errors import InputError
from resnet.interop.predict import find_images
from resnet.models.chain import parts
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.models.zoo import ZOO
from resnet.paths import count_elements
from resnet.training.losses import example_losses, example_scores
from resnet.training.optimizers import OptimizerConfig, make_optimizer
from resnet.training.schedules import ScheduleConfig, make_schedule

IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
TINY = {"blocks": (1, 1, 1), "width": 0.25}
COUNTS = {"batch_size": 8, "steps_per_epoch": 4, "total_steps": 8}


@pytest.fixture(autouse=True)
def as_users_run_it():
    """Without the checks of annotations, which tests alone have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]


def set_in(config, **fields):
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def test_a_net_keeps_the_config_that_it_was_made_of():
    config, nets, whole = ModelConfig(**TINY), {}, {}
    for shortcut in ("identity", "highway"):
        config.shortcut = shortcut
        nets[shortcut] = make_model(config, 10)
        variables = nets[shortcut].init(jax.random.key(0), IMAGES)
        whole[shortcut] = parts(config, 10, variables)
    assert count_elements(shapes(nets["identity"])) < count_elements(shapes(nets["highway"]))
    assert [part[1].module.config.shortcut for part in whole.values()] == ["identity", "highway"]


def test_the_zoo_keeps_its_configs():
    ZOO["resnet20"].config.shortcut = "highway"
    net = resnet.make("resnet20")
    net.model.config.shortcut = "highway"
    assert ZOO["resnet20"].config.shortcut == "identity"
    assert count_elements(resnet.make("resnet20").variables["params"]) == ZOO["resnet20"].parameters


def test_a_schedule_and_an_optimizer_keep_the_config_that_they_were_made_of():
    schedule = ScheduleConfig(name="constant", warmup="0 steps", learning_rate=0.1)
    first = make_schedule(schedule, **COUNTS)
    schedule.learning_rate = 0.4
    assert first(0) == np.float32(0.1)
    config = OptimizerConfig(name="lars", weight_decay=0.0, adapt="kernels")
    params = {"bias": jnp.ones(3)}
    optimizer = make_optimizer(config, first)
    config.adapt = "all"
    state = optimizer.init(params)
    updates, _ = optimizer.update({"bias": jnp.ones(3)}, state, params)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-6)


@pytest.mark.parametrize("make", [
    lambda: make_optimizer(OptimizerConfig(momentum=1.5), lambda step: 0.1),
    lambda: make_optimizer(OptimizerConfig(name="sgdm"), lambda step: 0.1),
    lambda: make_schedule(ScheduleConfig(warmup_kind="linaer"), **COUNTS),
    lambda: make_model(set_in(ModelConfig(), blocks=[1, 1, 1]), 10),
    lambda: make_model(set_in(ModelConfig(), zero_gamma="False"), 10),
    lambda: parts(ModelConfig(**TINY), 10, {}, "batches"),
    lambda: load_split(DataConfig(name="digits"), "Test"),
])  # fmt: skip
def test_values_that_cannot_work_are_refused(make):
    with pytest.raises(InputError, match="must be"):
        make()


@pytest.mark.parametrize("labels", [
    np.zeros(4, np.float32), np.zeros((4, 1), np.int32), np.zeros((4, 10), np.float32), np.zeros(3, np.int32)
])  # fmt: skip
def test_labels_of_another_kind_or_shape_are_refused(labels):
    logits = jnp.zeros((4, 10))
    for output in ("softmax", "sigmoid", "identity"):
        with pytest.raises(InputError, match="labels must be whole numbers from 0"):
            example_losses(logits, labels, output=output)
    with pytest.raises(InputError, match="labels must be whole numbers from 0"):
        example_scores(logits, labels, 1.0)


def test_images_of_whole_numbers_are_refused():
    """Weights are cast to the type of the images: as integers, most of them would be 0."""
    model = make_model(ModelConfig(**TINY), 10)
    variables = model.init(jax.random.key(0), IMAGES)
    pixels = jnp.ones((4, 8, 8, 3), jnp.uint8)
    stem = parts(model.config, 10, variables)[0]
    for call in (lambda: model.apply(variables, pixels), lambda: stem(pixels)):
        with pytest.raises(InputError, match="normalised images of a floating type; got uint8"):
            call()


@pytest.mark.parametrize("text", [
    "rand_augment 2 9", "timm_rand_augment 2 9", "trivial_augment", "auto_augment cifar10",
    "color_jitter 0.4 0.4 0.4", "lighting 0.1", "grey 0.2",
])  # fmt: skip
def test_operations_on_pixels_take_pixels_alone(text):
    keys, operation = jax.random.split(jax.random.key(0), 4), parse_operation("augmentation", text)[1]
    with pytest.raises(InputError, match="changes images of type uint8; got float32"):
        augment(keys, IMAGES, [operation], np.float32(0), np.float32(1))


def test_an_operation_must_suit_the_images():
    keys = jax.random.split(jax.random.key(0), 4)
    with pytest.raises(InputError, match="must be less than the images' sides, 8x8 pixels; got 30"):
        augment(keys, IMAGES, [Cutout(30)], np.float32(0), np.float32(1))


@pytest.mark.parametrize("images", [IMAGES[:3], jnp.ones((4, 8, 8, 3), jnp.uint8)])
def test_only_an_even_number_of_floats_is_mixed(images):
    with pytest.raises(InputError, match="mixed images must be an even number of floats"):
        Mixing(0.2, 0)(jax.random.key(0), jnp.arange(len(images)), images)


def test_scanned_blocks_show_what_they_hold():
    config = ModelConfig(blocks=(3, 3, 3), width=0.25, shortcut="highway")
    shown = []
    for config.scan_blocks in (True, False):
        model = make_model(config, 10)
        variables = model.init(jax.random.key(0), IMAGES)
        state = model.apply(variables, IMAGES, mutable=["intermediates"], capture_intermediates=True)[1]
        shown.append(flatten_dict(state["intermediates"], sep="/"))
    assert shown[0].keys() == shown[1].keys()
    assert sum(path.endswith("opening") for path in shown[0]) == 9
    jax.tree.map(np.testing.assert_array_equal, *shown)


def test_a_net_within_another_module_has_no_norms_that_paths_could_name():
    class Within(nn.Module):
        config: ModelConfig

        @nn.compact
        def __call__(self, images):
            return make_model(self.config, 10)(images)

    assert shapes(Within(ModelConfig(**TINY)))
    with pytest.raises(InputError, match="`model.bn_fixed` must be '' in a net within another module"):
        shapes(Within(ModelConfig(**TINY, bn_fixed="^stem/")))


def test_images_are_normalised_under_jit_and_grad():
    net = resnet.make("resnet20")
    image = np.random.default_rng(0).random((32, 32, 3), np.float32)

    def score(image):
        return net.model.apply(net.variables, net.normalized(image))[0][0, 3]

    np.testing.assert_allclose(jax.jit(net.normalized)(image), net.normalized(image), rtol=1e-6, atol=1e-6)
    saliency = jax.grad(score)(image)
    assert saliency.shape == image.shape and np.abs(saliency).max() > 0
    with pytest.raises(InputError, match=r"from 0\.\d+ to 1\.0000001"):
        net.normalized(np.where(image == image.max(), np.nextafter(np.float32(1), np.float32(2)), image))


def test_one_image_is_found_by_its_name_alone(tmp_path):
    (tmp_path / "x.png").touch()
    for given in (tmp_path / "x.png", str(tmp_path / "x.png"), tmp_path, [tmp_path]):
        assert find_images(given) == [tmp_path / "x.png"]
