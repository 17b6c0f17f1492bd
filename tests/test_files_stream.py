"""A stream's batches are functions of (seed, step, place), for any threads, processes and resumes."""

import gc
import io
import re
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from resnet.data import statistics
from resnet.data.batches import padded_batches
from resnet.data.files.crops import random_box
from resnet.data.files.delivery import Delivery, InputTimes, Pace, Work
from resnet.data.files.stream import TrainingStream
from resnet.data.order import batch_indices, steps_per_epoch
from resnet.data.statistics import channel_statistics
from resnet.data.streams import CROP, host_draws
from resnet.errors import InputError
from resnet.runtime.devices import make_mesh, own_rows
from tests.stream_cases import BATCH, CLASSES, STEPS, TRAIN, batches, digests, folders, one_tar, stream


@pytest.fixture
def data(tmp_path):
    return stream(one_tar(tmp_path))


def test_a_batch_is_the_crops_of_its_places(data):
    found, train = batches(data, range(3))[2], data.train
    draws = host_draws(0, CROP, 2, BATCH * 40).reshape(BATCH, 10, 4)
    for place, example in enumerate(batch_indices(0, 2, len(train), BATCH)):
        name = train.listing.name(int(train.entries[example])).split(" in ")[0]
        image = Image.open(io.BytesIO(TRAIN[name])).convert("RGB")
        box = random_box(draws[place], *image.size, 0.2)
        expected = image.crop(box).resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found["image"][0, 0, place], expected)
        assert CLASSES[found["label"][0, 0, place]] == name.split("/")[0]


def test_threads_batches_ahead_and_the_layout_change_no_bit(data, tmp_path):
    first = digests(batches(data, threads=1))
    assert len(set(first)) == STEPS
    for threads, ahead in ((2, 1), (5, 4)):
        assert digests(batches(data, threads=threads, ahead=ahead)) == first
    assert digests(batches(stream(folders(tmp_path / "again")), threads=2)) == first
    assert digests(batches(data, seeds=(1,), threads=2)) != first


def test_each_process_decodes_its_own_places_alone(data):
    whole = batches(data, threads=2)
    for rows in ([0, 1, 2], [3, 4]):
        for mine, all_of_it in zip(batches(data, threads=2, rows=rows), whole, strict=True):
            for name in ("image", "label"):
                np.testing.assert_array_equal(mine[name][:, :, rows], all_of_it[name][:, :, rows])
    worker_images = TrainingStream(data.train, (0,), BATCH, 1, Pace(2, rows=[1]))
    worker_images.take(range(1))
    times = worker_images.times
    assert times and times.images == 1
    worker_images.close()


def test_going_on_anywhere_gives_the_same_bits(data):
    whole = digests(batches(data, threads=2))
    for start in (1, 3, 4, 7):
        assert digests(batches(data, range(start, STEPS), threads=3)) == whole[start:]


def test_several_steps_and_seeds_at_once_are_those_of_each_alone(data):
    together = TrainingStream(data.train, (0, 1), BATCH, STEPS, Pace(2))
    found = together.take(range(3, 6))
    assert found["image"].shape == (2, 3, BATCH, 16, 16, 3) and found["label"].shape == (2, 3, BATCH)
    together.close()
    for seed in (0, 1):
        for i, alone in enumerate(batches(data, range(3, 6), seeds=(seed,))):
            np.testing.assert_array_equal(found["image"][seed, i], alone["image"][0, 0])


def test_an_epoch_is_each_image_once_and_the_next_in_another_order(data):
    n = len(data.train)
    assert steps_per_epoch(n, 4) == 6
    labels = TrainingStream(data.train, (0,), 4, 12, Pace(2))
    seen = [labels.take(range(step, step + 1))["label"].ravel() for step in range(12)]
    labels.close()
    for epoch in (0, 1):
        found = np.concatenate(seen[6 * epoch : 6 * epoch + 6])
        assert np.bincount(found).tolist() == [8, 8, 8]
    assert (np.concatenate(seen[:6]) != np.concatenate(seen[6:])).any()


def test_memory_and_stream_give_the_same_images(tmp_path):
    fields = {"random_resized_crop": 0.0, "eval_crop": 0.0}
    root = folders(tmp_path)
    memory, streamed = (stream(root, storage=storage, **fields) for storage in ("memory", "stream"))
    np.testing.assert_array_equal(memory.train.images, streamed.train.images)
    np.testing.assert_array_equal(memory.train.labels, streamed.train.labels)
    assert memory.fingerprint == streamed.fingerprint
    for step, batch in enumerate(batches(streamed)):
        index = batch_indices(0, step, len(memory.train), BATCH)
        np.testing.assert_array_equal(batch["image"][0, 0], memory.train.images[index])
    for mine, other in zip(
        padded_batches(memory.validation, 5), padded_batches(streamed.validation, 5), strict=True
    ):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)
    # Statistics that are not given are those of all, as long as they are few.
    measured = [stream(root, storage=s, mean=(), std=(), **fields) for s in ("memory", "stream")]
    np.testing.assert_array_equal(measured[0].mean, measured[1].mean)
    np.testing.assert_array_equal(measured[0].std, measured[1].std)


def test_storage_is_chosen_by_size(tmp_path):
    from resnet.data.files.stream import StreamSplit

    fields = {"random_resized_crop": 0.0, "eval_crop": 0.0}
    size = (24 + 12) * 16 * 16 * 3 / 1e9
    for limit, streamed in ((size * 1.01, False), (size * 0.99, True)):
        data = stream(folders(tmp_path), memory_gb=limit, **fields)
        assert isinstance(data.train, StreamSplit) == streamed
    needed = "`data.image_size` must be given where images are streamed: 36 images"
    with pytest.raises(InputError, match=needed):
        stream(folders(tmp_path), memory_gb=1e-9, image_size=0, **fields)
    min((tmp_path / "train").rglob("*.JPEG")).write_bytes(b"no image, whose size is not that of the others")
    with pytest.raises(InputError, match=needed):
        stream(tmp_path, memory_gb=1e-9, image_size=0, on_bad_image="skip", **fields)


def test_sizes_of_evaluation(tmp_path):
    data = stream(one_tar(tmp_path), eval_size=20)
    (images, _, mask), *_ = padded_batches(data.validation, 8)
    assert images.shape == (8, 20, 20, 3) and mask.all() and data.image_shape == (16, 16, 3)


def test_memory_is_bounded_by_the_batches_ahead(data, monkeypatch):
    planned = []
    work = type(data.train).training_work

    def counted(self, seeds, step, *rest):
        planned.append(step)
        return work(self, seeds, step, *rest)

    monkeypatch.setattr(type(data.train), "training_work", counted)
    stream = TrainingStream(data.train, (0,), BATCH, STEPS, Pace(2, ahead=3))
    for step in range(STEPS):
        stream.take(range(step, step + 1))
        assert planned == list(range(min(step + 4, STEPS)))
    stream.close()


# Threads


def test_threads_end_with_the_stream(data):
    before = threading.active_count()
    found = TrainingStream(data.train, (0,), BATCH, STEPS, Pace(3))
    found.take(range(1))
    assert threading.active_count() == before + 3
    found.close()
    assert threading.active_count() == before
    for _ in data.validation.padded(4, Pace(3)):
        break
    gc.collect()
    assert threading.active_count() == before


def test_an_error_in_a_thread_is_raised_where_the_batch_is_awaited():
    def fail(worker):
        raise ZeroDivisionError("here")

    delivery = Delivery(iter([Work({}, []), Work({}, [fail, fail])]), Pace(2))
    assert delivery.take() == {}
    with pytest.raises(ZeroDivisionError, match="here"):
        delivery.take()
    delivery.close()


# Where the time goes


def test_time_is_waited_only_while_the_devices_have_nothing_to_do():
    def slow(worker):
        time.sleep(0.2)

    for busy, waits in ((True, False), (False, True)):
        delivery = Delivery(iter([Work({}, [slow])]), Pace(1))
        delivery.take(lambda busy=busy: busy)
        assert (delivery.times.waited > 0.1) == waits and (delivery.times.waited < 0.01) != waits
        delivery.close()


def test_reading_and_decoding_are_told_apart_and_add_up(data):
    found = TrainingStream(data.train, (0,), BATCH, STEPS, Pace(2))
    found.take(range(2))
    found.close()
    first = found.times
    assert first.images >= 2 * BATCH and first.read > 0 and first.decode > 0 and first.threads == 2
    found.take(range(5, 6))
    assert found.times.images >= first.images + BATCH and found.times.decode > first.decode
    found.close()


@pytest.mark.parametrize(
    ("times", "processors", "message"),
    [
        (InputTimes(1000, 1.0, 9.0, 0.0, 2), 8, "2 threads read and decode 200 images/s, and the steps take "
         "400; 2 more `parallel.decoder_threads` would do"),
        (InputTimes(1000, 1.0, 9.0, 0.0, 2), 2, "that would take 4 processors, and this machine has 2: make "
         "the images smaller once for all .resnet prepare images."),
        (InputTimes(1000, 1.0, 9.0, 0.0, 4), 8, "read and decode 400 images/s, and the steps take 400; that "
         "is fast enough on average: more `parallel.batches_ahead` would do"),
        (InputTimes(1000, 9.0, 1.0, 0.0, 2), 8, "90% of it is reading: use a faster disk, or one tar"),
    ],
)  # fmt: skip
def test_advice_is_arithmetic(times, processors, message):
    assert re.search(message, times.advice(0.5, 200.0, processors))


def test_rows_of_the_devices_of_this_process():
    assert own_rows(make_mesh(2), 6) == list(range(6))
    assert jax.device_count() == 2


def test_statistics_of_a_long_stream_are_those_of_its_first_images(tmp_path, monkeypatch):
    """Of the first in the order of the split, in which each class has its share."""
    monkeypatch.setattr(statistics, "SAMPLE", 6)
    data = stream(one_tar(tmp_path), mean=(), std=())
    sample = data.train[:6]
    assert np.bincount(sample.labels).tolist() == [2, 2, 2] and len(data.train) == 24
    (mean, std), (other, _) = (channel_statistics(split.images) for split in (sample, data.train))
    np.testing.assert_array_equal(data.mean, mean.astype(np.float32))
    np.testing.assert_array_equal(data.std, std.astype(np.float32))
    assert (data.mean != other.astype(np.float32)).all()
