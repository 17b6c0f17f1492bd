"""Two processes that prepare one data set: the second waits, and finds all there."""

import fcntl
import time
from concurrent.futures import ThreadPoolExecutor

from resnet.data.published.prepare import LOCK
from tests import published_cases
from tests.published_cases import Server, cifar_archive, prepared

server, small = published_cases.server, published_cases.small


def test_the_second_waits_and_finds_all_there(small, tmp_path, caplog):
    """Locks belong to open files, so that threads keep each other out as processes do."""
    caplog.set_level("INFO", logger="absl")
    small("cifar10", {"cifar.tar.gz": cifar_archive("cifar10")[0]})
    (tmp_path / "cifar10").mkdir()
    with ThreadPoolExecutor(2) as pool:
        with (tmp_path / "cifar10" / LOCK).open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            both = [pool.submit(prepared, "cifar10", tmp_path) for _ in range(2)]
            begun = time.monotonic()
            while caplog.text.count("is being prepared by another process: waiting") < 2:
                assert time.monotonic() < begun + 60
                time.sleep(0.01)
            assert not Server.asked
        found = [future.result() for future in both]
    assert [folder for folder, _ in found] == [tmp_path / "cifar10"] * 2
    assert len(Server.asked) == 1
