"""Small archives in the place of the published ones, and a server on this machine that has them."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import re
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from resnet.data.published import cifar, fetch, sets
from resnet.data.published.prepare import prepare_published

ROWS = 20  # of each file of CIFAR in these tests


def cifar_archive(name: str) -> tuple[bytes, np.ndarray, np.ndarray]:
    """(archive, training images, their labels) in the binary layout."""
    layout, random = cifar.LAYOUTS[name], np.random.RandomState(0)
    classes = 10 if name == "cifar10" else 100
    found, labels, packed = [], [], io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:

        def add(file: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"{layout.folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        for file, count in {**layout.train, **layout.test}.items():
            images = random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)
            fine = random.randint(0, classes, (count, layout.labels)).astype(np.uint8)
            add(file, np.hstack([fine, images.transpose(0, 3, 1, 2).reshape(count, -1)]).tobytes())
            if file in layout.train:
                found, labels = [*found, images], [*labels, fine[:, -1]]
        add(layout.names, "".join(f"class {label}\n" for label in range(classes)).encode() + b"\n")
        add("../evil", b"not wanted")
    return packed.getvalue(), np.concatenate(found), np.concatenate(labels)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`, with what `behaviour` spoils; `asked` are the ranges that were asked for."""

    files: dict[str, bytes]
    behaviour: str
    asked: list[str | None]

    def log_message(self, *_):
        pass

    def do_GET(self):
        content, wanted = self.files[self.path[1:]], self.headers["Range"]
        self.asked.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.behaviour != "no ranges" else 0
        if self.behaviour in ("404", "503") or (self.behaviour == "416" and wanted):
            self.send_error(int(self.behaviour))
            return
        if self.behaviour == "longer":
            content += b"!"
        if self.behaviour == "another":
            content = content[::-1]
        self.send_response(206 if start else 200)
        if start and self.behaviour != "no Content-Range":
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        # Half of what is left each time, or nothing that ever comes.
        cut = self.behaviour in ("cut", "no ranges") and len(self.asked) < 3
        self.wfile.write(
            content[start : (start + len(content)) // 2 if cut or self.behaviour == "slow" else None]
        )
        if self.behaviour == "slow":
            time.sleep(1)


@pytest.fixture
def server(monkeypatch):
    """Starts a server and gives its base address; the fields of `Server` decide what it sends."""
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    Server.files, Server.behaviour, Server.asked = {}, "", []
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


@pytest.fixture
def small(monkeypatch, server):
    """Puts small archives in the place of the published ones: what `publish` takes, by file."""
    for name, layout in list(cifar.LAYOUTS.items()):
        fewer = {part: dict.fromkeys(getattr(layout, part), ROWS) for part in ("train", "test")}
        monkeypatch.setitem(cifar.LAYOUTS, name, dataclasses.replace(layout, **fewer))

    def publish(name: str, files: dict[str, bytes]) -> None:
        Server.files |= files
        archives = [
            fetch.Archive(f"{server}/{file}", len(content), hashlib.sha256(content).hexdigest())
            for file, content in files.items()
        ]
        changed = dataclasses.replace(sets.PUBLISHED[name], archives=tuple(archives))
        monkeypatch.setitem(sets.PUBLISHED, name, changed)

    return publish


def prepared(name: str, root: Path, given: Path | None = None, seen: list | None = None):
    report = (lambda *progress: seen.append(progress)) if seen is not None else lambda *_: None
    return prepare_published(name, str(root), given, report)


def idx(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(head + values.tobytes())


def mnist() -> dict[str, bytes]:
    random, files = np.random.RandomState(0), {}
    for prefix in ("train", "t10k"):
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx(random.randint(0, 256, (20, 28, 28)).astype(np.uint8))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx(np.arange(20, dtype=np.uint8) % 10)
    return files
