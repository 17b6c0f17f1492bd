"""A first convolution made from training images: uncorrelated outputs, and a place in the first state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from resnet.config import replaced
from resnet.data.datasets import load_dataset
from resnet.data.splits import Split
from resnet.data.statistics import FLAT, whitening_kernel
from resnet.errors import InputError
from resnet.kernels.convolution import convolve
from resnet.runtime.devices import make_mesh
from resnet.training.trainer import make_trainer
from tests.studies_cases import tiny_config

MEAN, STD = np.float32([120, 110, 90]), np.float32([60, 60, 70])
WIDE = {"model.stem_width": 18, "model.transition": "projection"}
WHITENED = WIDE | {"init_whitened": 50, "freeze": "^stem/conv1/kernel$"}


@pytest.mark.thorough
@pytest.mark.parametrize(("size", "outputs"), [(3, 54), (3, 16), (7, 20)])
def test_outputs_are_uncorrelated_and_of_equal_variance(size, outputs):
    photographs = load_sample_images().images
    images = np.stack([image[y : y + 40, 100:150] for image in photographs for y in range(0, 350, 10)])
    split = Split(images, np.zeros(len(images), np.int32))
    kernel = whitening_kernel(split, len(split), MEAN, STD, size, outputs)
    assert kernel.shape == (size, size, 3, outputs) and kernel.dtype == np.float32
    half = outputs // 2
    np.testing.assert_array_equal(kernel[..., half:], -kernel[..., :half])
    found = convolve(jnp.asarray((images - MEAN) / STD), jnp.asarray(kernel), 1, 0, 1)
    moments = np.einsum("bhwi,bhwj->ij", found, found)[:half, :half] / found[..., 0].size
    variances = np.diag(moments)
    assert (np.diff(variances) < 1e-3).all()  # the axes of largest variance come first
    np.testing.assert_allclose(moments, np.diag(variances), atol=2e-3)
    # What FLAT leaves of 1 where a variance is small beside it.
    np.testing.assert_allclose(variances[0], 1.0, atol=1e-3)
    assert (variances > 0.1).all() and variances.max() < 1.001 and FLAT > 0


def trained(changes, steps=2):
    """The variables before and after some steps."""
    config = replaced(tiny_config(), changes)
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
    state = start = trainer.start()
    before = jax.tree.map(np.array, start.params)  # copied, as the state is donated
    for step in range(steps):
        state, _ = trainer.train()(state, trainer.batch(range(step, step + 1)))
    return before, jax.device_get(state.params)


@pytest.mark.thorough
def test_the_first_kernel_starts_so_and_stays_if_it_is_frozen():
    plain, _ = trained(WIDE, steps=0)
    before, after = trained(WHITENED)
    kernel = before["stem"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel[..., :9], -kernel[..., 9:])
    np.testing.assert_array_equal(after["stem"]["conv1"]["kernel"], kernel)
    before["stem"]["conv1"] = plain["stem"]["conv1"]
    jax.tree.map(np.testing.assert_array_equal, before, plain)
    assert (after["head"]["dense"]["kernel"] != before["head"]["dense"]["kernel"]).any()


@pytest.mark.thorough
@pytest.mark.parametrize("width", [17, 20])
def test_a_stem_has_channels_for_axes_and_their_negatives(width):
    """Digits are grey: patches of 3x3 pixels have nine axes."""
    with pytest.raises(InputError, match=rf"at most 18 for its 3x3 pixels; `model.stem_width` gives {width}"):
        trained(WHITENED | {"model.stem_width": width}, steps=0)
