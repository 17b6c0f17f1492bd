"""Published sets brought to where they are read from: what lies there already, and servers that err."""

import numpy as np
import pytest

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.published import idx as idx_files
from resnet.errors import InputError
from tests import published_cases
from tests.published_cases import ROWS, Server, cifar_archive, idx, mnist, prepared

server, small = published_cases.server, published_cases.small


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def begun(tmp_path, content: bytes):
    """Writes the part of CIFAR-10's archive that an interrupted fetch left, and returns its path."""
    part = tmp_path / "cifar10" / "a.tar.gz.part"
    write(part.parent, {part.name: content})
    return part


def test_a_server_without_the_bytes_that_are_asked_for_is_asked_for_all(small, tmp_path):
    archive, images, _ = cifar_archive("cifar10")
    small("cifar10", {"a.tar.gz": archive})
    Server.behaviour = "416"
    part = begun(tmp_path, archive[:100])
    _, source = prepared("cifar10", tmp_path)
    np.testing.assert_array_equal(source.train.images, images)
    assert Server.asked == ["bytes=100-", None] and not part.exists()


def test_a_part_that_does_not_say_where_it_begins_is_not_written(small, tmp_path):
    archive, _, _ = cifar_archive("cifar10")
    small("cifar10", {"a.tar.gz": archive})
    Server.behaviour = "no Content-Range"
    part = begun(tmp_path, archive[:100])
    with pytest.raises(InputError, match="the server sends no range, not bytes 100-; fetch it by other"):
        prepared("cifar10", tmp_path)
    assert part.read_bytes() == archive[:100]
    Server.behaviour = ""
    assert len(prepared("cifar10", tmp_path)[1].test) == ROWS


@pytest.mark.parametrize(("name", "other"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_files_of_the_other_set_of_the_same_names_are_not_taken(small, tmp_path, name, other):
    def files(of):
        labels = np.resize(np.array(idx_files.FIRST[of], np.uint8), 20)
        return mnist() | {"t10k-labels-idx1-ubyte.gz": idx(labels)}

    write(tmp_path, files(other))
    assert len(load_dataset(DataConfig(name=other, dir=str(tmp_path))).test) == 20
    with pytest.raises(InputError, match=f"data set {name} is not in {tmp_path} nor in .*: fetch it by"):
        load_dataset(DataConfig(name=name, dir=str(tmp_path)))
    small(name, files(name))
    assert prepared(name, tmp_path)[0] == tmp_path / name
    labels = load_dataset(DataConfig(name=name, dir=str(tmp_path))).test.labels
    assert tuple(labels[:10]) == idx_files.FIRST[name]


def test_sound_files_may_be_taken_from_the_folder_itself(small, tmp_path):
    small("mnist", mnist())
    write(tmp_path, mnist())
    folder, source = prepared("mnist", tmp_path, tmp_path)
    assert folder == tmp_path / "mnist" and len(source.test) == 20 and Server.asked == []


def test_damaged_files_that_would_be_read_first_are_to_be_removed(small, tmp_path):
    small("mnist", mnist())
    cut = {name: content[: -5 if "t10k-labels" in name else None] for name, content in mnist().items()}
    write(tmp_path, cut)
    with pytest.raises(InputError, match="t10k-labels.*fetch it again"):
        load_dataset(DataConfig(name="mnist", dir=str(tmp_path)))
    message = f"--dir: damaged files of mnist in {tmp_path} would be read before those in {tmp_path}/mnist: "
    with pytest.raises(InputError, match=message):
        prepared("mnist", tmp_path)
    assert Server.asked == []
    for name in cut:
        (tmp_path / name).unlink()
    prepared("mnist", tmp_path)
    assert len(load_dataset(DataConfig(name="mnist", dir=str(tmp_path))).test) == 20
