"""Images of a stream that cannot be read: replaced by rule and listed; too many end it; evaluation counts."""

import os
import re
import threading

import numpy as np
import pytest

from resnet.data import statistics
from resnet.data.batches import padded_batches
from resnet.data.files import delivery
from resnet.data.files.decoders import decode_cut
from resnet.data.files.listing import read_whole
from resnet.data.order import epoch_order
from resnet.errors import InputError
from tests.folder_cases import noted
from tests.stream_cases import BATCH, CLASSES, TRAIN, batches, digests, folders, one_tar, stream


@pytest.fixture
def data(tmp_path):
    return stream(one_tar(tmp_path))


def spoiled(tmp_path, names, content=b"no JPEG"):
    return folders(tmp_path / "spoiled", TRAIN | dict.fromkeys(names, content))


def test_the_place_of_a_bad_image_takes_the_next_and_no_other_moves(data, tmp_path, monkeypatch):
    warnings = noted(monkeypatch)
    bad = ("n02/train_3.JPEG", "n03/train_0.JPEG")
    other = stream(spoiled(tmp_path, bad), bad_limit=0.5)
    names = [data.train.listing.name(int(entry)).split(" in ")[0] for entry in data.train.entries]
    order = epoch_order(0, 0, len(names))
    # Two bad images, one after the other, are passed over as one is.
    whole, found = batches(data, range(4), threads=1), batches(other, range(4), threads=4)
    replaced = 0
    for step in range(4):
        for place in range(BATCH):
            at = step * BATCH + place
            one, two = (b[step]["image"][0, 0, place] for b in (whole, found))
            if names[order[at]] not in bad:
                np.testing.assert_array_equal(one, two)
                continue
            replaced += 1
            while names[order[at % len(names)]] in bad:
                at += 1
            expected = CLASSES.index(names[order[at % len(names)]].split("/")[0])
            assert found[step]["label"][0, 0, place] == expected and (one != two).any()
    assert replaced >= 1
    assert all("is not a JPEG or PNG image" in text for text in other.skipped)
    assert replaced <= len([text for text in warnings if "is left out" in text]) == len(other.skipped) <= 2
    assert digests(batches(other, range(4), threads=1)) == digests(found)


def test_too_many_bad_images_end_it_in_one_line(tmp_path):
    data = stream(spoiled(tmp_path, list(TRAIN)[:6]), bad_limit=0.1)
    with pytest.raises(
        InputError, match="3 of 24 training images cannot be read, more than .data.bad_limit."
    ) as e:
        batches(data, threads=2)
    assert "\n" not in str(e.value)
    data = stream(spoiled(tmp_path / "all", TRAIN), bad_limit=1.0)
    with pytest.raises(InputError, match="none of 24 training images can be read"):
        batches(data, threads=2)


def test_what_is_looked_at_first_is_judged_among_all_training_images(tmp_path):
    """Statistics and whitening take some of them: one bad image of four is one of 24."""
    data = stream(spoiled(tmp_path, ["n01/train_0.JPEG"]), bad_limit=0.1)
    names = [data.train.listing.name(int(entry)) for entry in data.train.entries]
    first = next(i for i, name in enumerate(names) if "n01/train_0.JPEG" in name)
    some = data.train[np.array([first, *[i for i in range(24) if i != first][:3]])]
    assert len(statistics._read(some, 24)) == 3
    with pytest.raises(InputError, match="1 of 4 training images cannot be read"):
        statistics._read(some, 4)


def test_evaluation_counts_a_bad_image_and_replaces_none(tmp_path):
    root = folders(tmp_path)
    (root / "val" / "n02" / "val_1.JPEG").write_bytes(b"")
    data = stream(root, bad_limit=0.0)
    found = list(padded_batches(data.validation, 5))
    assert sum(mask.sum() for *_, mask in found) == 11 and len(data.skipped) == 1
    assert not found[1][0][0].any() and found[1][2].tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("what", ["gone", "shorter", "longer", "a pipe"])
def test_a_file_that_vanishes_or_changes(tmp_path, what):
    root = folders(tmp_path)
    data = stream(root, bad_limit=0.5)
    path = root / "train" / "n01" / "train_5.JPEG"
    content = path.read_bytes()
    path.unlink()
    if what == "a pipe":
        os.mkfifo(path)
    elif what != "gone":
        path.write_bytes(content[:-3] if what == "shorter" else content + b"\0")
    reasons = {"gone": "cannot be read .No such", "a pipe": "is no ordinary file"}
    batches(data, range(8), threads=2)
    assert len(data.skipped) == 1
    assert re.search(reasons.get(what, "when it was listed"), data.skipped[0])


def test_a_tar_that_is_cut_while_it_is_read(tmp_path):
    path = one_tar(tmp_path)
    data = stream(path, bad_limit=1.0)
    batches(data, range(1), threads=2)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    found = batches(data, range(4), threads=2)
    assert found and all("when it was listed" in text for text in data.skipped) and len(data.skipped)


def test_a_tar_that_changed_before_it_is_read_is_refused(tmp_path):
    path = one_tar(tmp_path)
    data = stream(path, bad_limit=1.0)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(InputError, match=f"{path} has changed since it was listed: put it back, or"):
        list(padded_batches(data.validation, 5))


def test_a_file_that_was_away_is_tried_again(tmp_path):
    root = folders(tmp_path)
    data = stream(root, bad_limit=0.5)

    def seen():
        return sum(mask.sum() for *_, mask in padded_batches(data.validation, 5))

    (root / "val" / "n02").rename(tmp_path / "away")
    few = seen()
    (tmp_path / "away").rename(root / "val" / "n02")
    assert (few, seen()) == (12 - len(data.skipped), 12) and 0 < few < 12
    (root / "val" / "n02" / "val_1.JPEG").write_bytes(b"")  # what is bad stays bad
    assert (seen(), seen()) == (11, 11)


@pytest.mark.parametrize("storage", ["stream", "memory"])
def test_a_file_system_that_does_not_answer_is_named(tmp_path, monkeypatch, storage):
    """A read that never ends, in a thread that nobody can end, does not keep the run from ending.

    The clock goes on with that read alone, and another file is not named however slow the machine is.
    """
    root, release, now = folders(tmp_path), threading.Event(), [0.0]
    fields = {"random_resized_crop": 0.0, "eval_crop": 0.0, "storage": storage}
    slow = "n02/train_4.JPEG"

    def stalled(read):
        def waiting(first, *rest):
            if slow in str(rest or first):
                now[0] = delivery.STALL_SECONDS + 1
                release.wait(30)
            return read(first, *rest)

        return waiting

    monkeypatch.setattr(delivery.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(delivery, "JOIN_SECONDS", 0.1)
    monkeypatch.setattr("resnet.data.folder.decode_cut", stalled(decode_cut))
    monkeypatch.setattr("resnet.data.files.listing.read_whole", stalled(read_whole))
    try:
        with pytest.raises(
            InputError, match=f"{slow} is not read within 300 s: its file system does not answer"
        ):
            batches(stream(root, **fields), range(5), threads=1)
    finally:
        release.set()
