"""Order is a function of (seed, step); evaluation covers each example once."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet.data.batches import FlatImages, padded_batches
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.order import batch_indices, draw_order, epoch_order, steps_per_epoch
from resnet.data.splits import Split
from resnet.errors import InputError
from tests.stream_cases import STATISTICS, folders


@pytest.mark.parametrize("n", [1, 7, 128])
def test_an_epoch_visits_every_example_once(n):
    assert sorted(epoch_order(3, 2, n)) == list(range(n))


def test_order_depends_on_seed_and_epoch_alone():
    again = draw_order  # past what is kept
    np.testing.assert_array_equal(epoch_order(0, 1, 50), again(0, 1, 50))
    assert (epoch_order(0, 1, 50) != epoch_order(0, 2, 50)).any()
    assert (epoch_order(0, 1, 50) != epoch_order(1, 1, 50)).any()


def test_order_is_pinned():
    """Another order would mean that runs recorded earlier can no longer be resumed."""
    assert epoch_order(0, 0, 8).tolist() == [4, 7, 6, 5, 3, 1, 0, 2]


def test_order_cannot_be_overwritten():
    with pytest.raises(ValueError, match="read-only"):
        batch_indices(0, 0, 8, 2)[0] = 1


def test_batches_of_an_epoch_are_disjoint_and_follow_its_order():
    steps = range(2 * steps_per_epoch(10, 3))
    batches = [batch_indices(5, step, 10, 3) for step in steps]
    np.testing.assert_array_equal(np.concatenate(batches[:3]), epoch_order(5, 0, 10)[:9])
    np.testing.assert_array_equal(np.concatenate(batches[3:]), epoch_order(5, 1, 10)[:9])


@pytest.mark.parametrize(("batch", "repeats"), [(6, 3), (6, 4), (8, 3), (5, 1)])
def test_repeats_stand_apart_and_make_no_epoch_longer(batch, repeats):
    """Each batch has its own examples, each as often as the others or once less, and none beside itself."""
    batches = [batch_indices(5, step, 40, batch, repeats) for step in range(steps_per_epoch(40, batch))]
    for found in batches:
        counts = np.unique(found, return_counts=True)[1]
        assert counts.max() <= repeats and counts.max() - counts.min() <= 1
        assert (found[0 : batch - 1 : 2] != found[1::2][: batch // 2]).all()
    seen = np.concatenate([np.unique(found) for found in batches])
    assert len(set(seen)) == len(seen) and {*seen} <= {*epoch_order(5, 0, 40)[: len(seen)]}


def test_a_stream_repeats_as_memory_does(tmp_path):
    config = DataConfig(name="image_folder", dir=str(folders(tmp_path)), image_size=8, storage="stream")
    config.mean, config.std = STATISTICS["mean"], STATISTICS["std"]
    train = load_dataset(config).train
    made = train.training_work([3], 2, 6, range(6), 3).now()
    examples = batch_indices(3, 2, len(train), 6, 3)
    np.testing.assert_array_equal(made["label"][0], train.labels[examples])
    np.testing.assert_array_equal(made["image"][0, 0], made["image"][0, 2])  # nothing is cut anew here


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match=r"`train.batch_size` must be at most 5, .* got 6"):
        steps_per_epoch(5, 6)


@given(n=st.integers(0, 20), batch=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_padded_batches_cover_exactly_n(n, batch):
    images = np.arange(1, n + 1, dtype=np.uint8).reshape(n, 1, 1, 1)
    batches = list(padded_batches(Split(images, np.arange(n, dtype=np.int32)), batch))
    assert all(part.shape == (batch, 1, 1, 1) for part, _, _ in batches)
    assert sum(mask.sum() for _, _, mask in batches) == n
    seen = [labels[mask == 1] for _, labels, mask in batches]
    assert np.concatenate([*seen, np.empty(0)]).tolist() == list(range(n))
    padding = [part[mask == 0] for part, _, mask in batches]
    assert not any(part.any() for part in padding)


def test_padded_batches_keep_the_targets_of_a_regression():
    split = Split(np.zeros((3, 1, 1, 1), np.uint8), np.array([0.5, -0.5, 1.0], np.float32))
    (_, labels, mask), (_, last, last_mask) = padded_batches(split, 2)
    assert labels.dtype == np.float32
    assert [*labels, *last] == [0.5, -0.5, 1.0, 0.0]
    assert [*mask, *last_mask] == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("side", "rows"), ((5, (9, 75)), (32, (9, 24, 128)), (224, (9, 1176, 128))))
def test_flat_images_are_gathered_as_they_are(side, rows):
    """To the last bit, in the shape of the places, whatever the number of axes."""
    images = np.random.default_rng(0).integers(0, 256, (9, side, side, 3), np.uint8)
    flat = FlatImages.of(images)
    assert flat.rows.base is images and flat.rows.shape == rows  # a view
    for places in (np.array([3, 0, 3]), np.array([[1, 2], [8, 0]])):
        found = jax.jit(lambda flat, places: flat[places])(flat, places)
        np.testing.assert_array_equal(found, images[places])
