"""The published data sets that are known by name: their shapes, their archives, and who reads them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from resnet.data.published.cifar import cifar_members, find_cifar, load_cifar
from resnet.data.published.fetch import Archive
from resnet.data.published.idx import find_idx, load_idx
from resnet.data.published.svhn import find_svhn, load_svhn
from resnet.data.published.tfds import find_version, load_prepared
from resnet.data.splits import Source
from resnet.errors import InputError
from resnet.files import local_path

# Where data sets lie unless `data.dir` says otherwise: what `resnet prepare` fetched, and what
# tensorflow-datasets prepared.
DEFAULT_DIR = "~/datasets"
TFDS_DIR = "~/tensorflow_datasets"
# Where Debian's and Ubuntu's package dataset-fashion-mnist puts them.
SYSTEM = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


@dataclasses.dataclass(frozen=True)
class PublishedSet:
    """A data set in the form in which its authors publish it."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    classes: int
    archives: tuple[Archive, ...]
    """What is fetched."""
    find: Callable[[str, Path], Path | None]
    """(name, folder) -> where in the folder the files lie; None if they do not."""
    load: Callable[[str, Path], Source]
    """(name, that place) -> the images."""
    members: Callable[[str], tuple[str, ...]] = lambda name: ()
    """Of an archive that is unpacked, the files that are wanted."""


# Base of the addresses, then file, size and SHA-256 as tensorflow-datasets lists them; a test compares.
KRIZ = "https://www.cs.toronto.edu/~kriz"
MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SVHN = "http://ufldl.stanford.edu/housenumbers"


def _archives(base: str, listed: str) -> tuple[Archive, ...]:
    """From lines "file size sha256"."""
    rows = (line.split() for line in listed.strip().splitlines())
    return tuple(Archive(f"{base}/{name}", int(size), sha256) for name, size, sha256 in rows)


PUBLISHED = {
    "cifar10": PublishedSet((32, 32, 3), 10, _archives(KRIZ, """
    cifar-10-binary.tar.gz 170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
    """), find_cifar, load_cifar, cifar_members),
    "cifar100": PublishedSet((32, 32, 3), 100, _archives(KRIZ, """
    cifar-100-binary.tar.gz 168513733 58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec
    """), find_cifar, load_cifar, cifar_members),
    "mnist": PublishedSet((28, 28, 1), 10, _archives(MNIST, """
    train-images-idx3-ubyte.gz 9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
    train-labels-idx1-ubyte.gz 28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
    t10k-images-idx3-ubyte.gz 1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
    t10k-labels-idx1-ubyte.gz 4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
    """), find_idx, load_idx),
    "fashion_mnist": PublishedSet((28, 28, 1), 10, _archives(FASHION, """
    train-images-idx3-ubyte.gz 26421880 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
    train-labels-idx1-ubyte.gz 29515 a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
    t10k-images-idx3-ubyte.gz 4422102 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
    t10k-labels-idx1-ubyte.gz 5148 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
    """), find_idx, load_idx),
    "svhn_cropped": PublishedSet((32, 32, 3), 10, _archives(SVHN, """
    train_32x32.mat 182040794 435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8
    test_32x32.mat 64275384 cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b
    """), find_svhn, load_svhn),
}  # fmt: skip


def load_published(name: str, given: str) -> Source:
    """Reads a set from `given`, or from where it lies by default. Never downloads.

    The published files go before what tensorflow-datasets prepared.
    """
    if found := find_published(name, given):
        return PUBLISHED[name].load(name, found)
    root = local_path(given or TFDS_DIR).absolute()
    folder, others = find_version(name, root)
    if folder:
        return load_prepared(folder)
    where = " nor in ".join(str(place) for place in dict.fromkeys([*_places(name, given), root / name]))
    into = f" --dir={given}" if given else ""
    raise InputError(
        f"data set {name} is not in {where} (`data.dir`){others}: fetch it by resnet prepare {name}{into}"
    )


def find_published(name: str, given: str) -> Path | None:
    """The folder with the published files of a set, in `given` or where it lies by default."""
    places = (PUBLISHED[name].find(name, place) for place in _places(name, given))
    return next(filter(None, places), None)


def _places(name: str, given: str) -> list[Path]:
    """The folders that are looked in for the published files."""
    root = local_path(given or DEFAULT_DIR).absolute()
    system = [SYSTEM[name]] if name in SYSTEM and not given else []
    return [*([root] if given else []), root / name, *system]
