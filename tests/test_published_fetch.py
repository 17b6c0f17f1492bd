"""Published archives: fetched whole or not at all, whether cut, slow, wrong or resumed; no pickle is read."""

import io
from pathlib import Path

import numpy as np
import pytest
from scipy import io as matlab

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset, shapes_of
from resnet.data.published import cifar, fetch, sets
from resnet.data.published.prepare import LOCK
from resnet.errors import InputError
from tests import published_cases
from tests.published_cases import ROWS, Server, cifar_archive, mnist, prepared
from tests.test_nothing_runs import unpickled  # noqa: F401

server, small = published_cases.server, published_cases.small


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_fetched_unpacked_and_read(small, tmp_path, name, unpickled):  # noqa: F811
    archive, images, labels = cifar_archive(name)
    small(name, {"cifar.tar.gz": archive})
    seen = []
    folder, source = prepared(name, tmp_path, seen=seen)
    assert folder == tmp_path / name and seen[-1] == ("cifar.tar.gz", len(archive), len(archive))
    np.testing.assert_array_equal(source.train.images, images)
    np.testing.assert_array_equal(source.train.labels, labels)
    assert source.class_names[:2] == ("class 0", "class 1")
    expected = {Path(member).name for member in cifar.cifar_members(name)}
    assert {path.name for path in folder.iterdir()} == {*expected, LOCK} and not (tmp_path / "evil").exists()
    dataset = load_dataset(DataConfig(name=name, dir=str(tmp_path)))
    assert (dataset.image_shape, dataset.num_outputs) == shapes_of(DataConfig(name=name))
    assert unpickled == []
    prepared(name, tmp_path)
    assert len(Server.asked) == 1, "what is there is not fetched again"
    # As `tar -xf` leaves it.
    folder.rename(tmp_path / cifar.LAYOUTS[name].folder)
    assert len(load_dataset(DataConfig(name=name, dir=str(tmp_path))).test) == ROWS


def test_svhn_is_read_from_matlab_files(small, tmp_path, unpickled):  # noqa: F811
    random, files = np.random.RandomState(0), {}
    for file in ("train_32x32.mat", "test_32x32.mat"):
        images = random.randint(0, 256, (32, 32, 3, 20)).astype(np.uint8)
        content = io.BytesIO()
        matlab.savemat(content, {"X": images, "y": np.arange(1, 21)[:, None] % 11}, do_compression=True)
        files[file] = content.getvalue()
    small("svhn_cropped", files)
    _, source = prepared("svhn_cropped", tmp_path)
    np.testing.assert_array_equal(source.test.images[3], images[..., 3])
    assert source.test.labels[[0, 9]].tolist() == [1, 0], "ten stands for zero"
    assert unpickled == []
    path = tmp_path / "svhn_cropped" / "test_32x32.mat"
    matlab.savemat(path, {"X": np.zeros((32, 32, 3, 2)), "y": np.zeros(2)})
    for content in (path.read_bytes(), files["test_32x32.mat"][:-40], b"<html>"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path} .*; fetch it again"):
            load_dataset(DataConfig(name="svhn_cropped", dir=str(tmp_path)))


def test_mnist_is_four_files_each_fetched_once(small, tmp_path):
    small("mnist", mnist())
    folder, source = prepared("mnist", tmp_path)
    assert len(source.train) == 20 and len(Server.asked) == 4
    next(folder.glob("t10k-images*")).unlink()
    prepared("mnist", tmp_path)
    assert len(Server.asked) == 5, "only what is missing"


@pytest.mark.parametrize("behaviour", ["cut", "no ranges"])
def test_a_connection_that_breaks_off_is_taken_up_again(small, tmp_path, behaviour):
    archive, images, _ = cifar_archive("cifar10")
    small("cifar10", {"a.tar.gz": archive})
    Server.behaviour = behaviour
    _, source = prepared("cifar10", tmp_path)
    np.testing.assert_array_equal(source.train.images, images)
    assert (
        Server.asked[0] is None
        and Server.asked[1] == f"bytes={len(archive) // 2}-"
        and len(Server.asked) == 3
    )


def test_a_fetch_that_was_given_up_goes_on_later(small, tmp_path, monkeypatch):
    archive, _, _ = cifar_archive("cifar10")
    small("cifar10", {"a.tar.gz": archive})
    Server.behaviour = "slow"
    monkeypatch.setattr(fetch, "SECONDS", 0.1)
    monkeypatch.setattr(fetch, "TRIES", 1)
    part = tmp_path / "cifar10" / "a.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(archive[: len(archive) - 100])
    with pytest.raises(
        InputError, match=r"a.tar.gz cannot be fetched \(.*timed out.*\): [\d,]+ of"
    ) as raised:
        while part.stat().st_size < len(archive):
            prepared("cifar10", tmp_path)
    assert "the same command goes on from there" in str(raised.value)
    assert part.stat().st_size > len(archive) - 100
    Server.behaviour = ""
    here = part.stat().st_size
    prepared("cifar10", tmp_path)
    assert Server.asked[-1] == f"bytes={here}-" and not part.exists()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("404", "a.tar.gz: the server answers 404 Not Found; fetch it by other means"),
        ("503", "cannot be fetched .Service Unavailable.: 0 of .* bytes are here"),
        ("longer", "the server offers [0-9,]+ bytes, not the [0-9,]+ published"),
        (
            "another",
            "has the SHA-256 [0-9a-f]{64}, not the [0-9a-f]{64} of .*: it is another file",
        ),
    ],
)
def test_what_is_not_what_was_published_is_refused(small, tmp_path, behaviour, message):
    archive, _, _ = cifar_archive("cifar10")
    small("cifar10", {"a.tar.gz": archive})
    Server.behaviour = behaviour
    with pytest.raises(InputError, match=message) as raised:
        prepared("cifar10", tmp_path)
    assert "\n" not in str(raised.value) and "--archive=FILE" in str(raised.value)
    assert not any(path.suffix == ".part" for path in (tmp_path / "cifar10").iterdir())
    Server.behaviour = ""
    assert len(prepared("cifar10", tmp_path)[1].test) == ROWS


def test_a_part_of_another_file_is_dropped(small, tmp_path):
    archive, _, _ = cifar_archive("cifar10")
    small("cifar10", {"a.tar.gz": archive})
    part = tmp_path / "cifar10" / "a.tar.gz.part"
    part.parent.mkdir()
    for content in (bytes(len(archive) + 1), bytes(10)):
        part.write_bytes(content)
        if len(content) == 10:  # goes on, and notices at the end
            with pytest.raises(InputError, match="SHA-256"):
                prepared("cifar10", tmp_path)
        prepared("cifar10", tmp_path)
        for path in part.parent.iterdir():
            path.unlink()


def test_an_archive_that_is_at_hand(small, tmp_path):
    archive, images, _ = cifar_archive("cifar10")
    small("cifar10", {"a.tar.gz": archive})
    mine = tmp_path / "mine.tar.gz"
    mine.write_bytes(archive)
    _, source = prepared("cifar10", tmp_path / "data", mine)
    np.testing.assert_array_equal(source.train.images, images)
    assert mine.read_bytes() == archive and Server.asked == []
    mine.write_bytes(archive[:-1])
    with pytest.raises(InputError, match=r"mine.tar.gz has [\d,]+ bytes, not .*: name another by"):
        prepared("cifar10", tmp_path / "data", mine)
    with pytest.raises(InputError, match="--archive: there is no file .*/nothing"):
        prepared("cifar10", tmp_path / "data", tmp_path / "nothing")
    small("mnist", mnist())
    with pytest.raises(InputError, match="mnist is published in 4 files; name the folder that holds them"):
        prepared("mnist", tmp_path / "data", mine)
    (tmp_path / "four").mkdir()
    for name, content in mnist().items():
        (tmp_path / "four" / name).write_bytes(content)
    assert len(prepared("mnist", tmp_path / "data", tmp_path / "four")[1].train) == 20 and Server.asked == []
    # A damaged file is replaced by the one that was given.
    cut = tmp_path / "data" / "mnist" / sorted(mnist())[0]
    cut.write_bytes(cut.read_bytes()[:-5])
    assert len(prepared("mnist", tmp_path / "data", tmp_path / "four")[1].train) == 20
    assert len(prepared("mnist", tmp_path / "data", tmp_path / "data" / "mnist")[1].train) == 20
    with pytest.raises(InputError, match="`data set` must be one of cifar10, .*; got 'imagenet'"):
        prepared("imagenet", tmp_path)


def test_archives_are_those_that_tensorflow_datasets_lists():
    import tensorflow_datasets as tfds

    package, known = Path(tfds.__file__).parent, {}
    for path in (*package.glob("url_checksums/*.txt"), *package.glob("datasets/svhn_cropped/checksums.tsv")):
        for line in path.read_text().splitlines():
            fields = line.split("\t") if "\t" in line else line.rsplit(" ", 2)
            known[fields[0]] = int(fields[1]), fields[2]
    for published in sets.PUBLISHED.values():
        for archive in published.archives:
            assert known[archive.url] == (archive.size, archive.sha256)
