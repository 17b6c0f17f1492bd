"""The kept library of native kernels: sound and this user's own when it is loaded, or compiled again."""

import _ctypes
import concurrent.futures
import ctypes
import functools
import os
import shutil
import time

import jax
import pytest

from resnet.kernels import native
from resnet.kernels.native import library

SYMBOL = "resnet_moments"
# Takes the place of a compiler: answers at once, and counts the libraries that it was asked for.
COMPILER = """#!/bin/sh
case "$*" in *-dM*) echo "#define FLAGS"; exit;; esac
case " $* " in *" -c "*) ;; *) echo "$@" >> {counts};; esac
for last; do :; done
{makes}
"""


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """A library with all symbols: what is compiled here is little and quickly."""
    folder = tmp_path_factory.mktemp("library")
    symbols = (f"void {symbol}() {{}}" for symbol in native.SYMBOLS)
    (folder / "small.cc").write_text(f'extern "C" {{ {" ".join(symbols)} int resnet_channels = 8; }}')
    path = folder / "small.so"
    try:
        library._compiler("-shared", "-fPIC", str(folder / "small.cc"), "-o", str(path))
    except library.CompilerError as error:
        pytest.skip(str(error))
    return path


@pytest.fixture
def cache(tmp_path):
    """An empty folder in which JAX, and so the native kernels, would keep what is compiled."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Sets $CXX to a program that makes a library by a line of shell; how often it did so."""
    counts = tmp_path / "counts"
    counts.touch()

    def use(makes, cxx="{}"):
        path = tmp_path / "compiler"
        path.write_text(COMPILER.format(counts=counts, makes=makes))
        path.chmod(0o700)
        monkeypatch.setenv("CXX", cxx.format(path))
        return lambda: len(counts.read_text().splitlines())

    return use


def kept(cache):
    """The kept libraries; nothing else but the lock lies in their folder."""
    [folder] = cache.iterdir()
    others = {path.name for path in folder.iterdir() if path.suffix != ".so"}
    assert others <= {"lock"}
    return list(folder.glob("*.so"))


@pytest.mark.skipif(shutil.which(library._command()[0]) is None, reason="no C++ compiler")
def test_where_there_is_a_compiler_native_kernels_serve():
    """Other tests pass without native kernels too, by XLA's operations."""
    assert native.in_use() and native.in_use(native.CHANNELS)


def test_compiled_once(cache, compiler, real, caplog):
    compiled = compiler(f'cp {real} "$last"')
    assert hasattr(library.load_library(), SYMBOL) and hasattr(library.load_library(), SYMBOL)
    [path] = kept(cache)
    assert compiled() == 1 and not caplog.records
    assert path.parent.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o600


def rewrite(path, content):
    """As another file: what this process has loaded must not change."""
    path.unlink()
    path.write_bytes(content)


def cut(path):
    rewrite(path, path.read_bytes()[:5000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(path, content)


def empty(path):
    rewrite(path, b"")


def replace_by_link(path):
    real = path.rename(path.parent.parent.parent / "elsewhere.so")
    path.symlink_to(real)


def open_to_all(path):
    path.chmod(0o666)


@pytest.mark.parametrize("damage", (cut, flip, empty, open_to_all, replace_by_link))
def test_damaged_is_compiled_once_again(damage, cache, compiler, real, caplog):
    compiled = compiler(f'cp {real} "$last"')
    library.load_library()
    damage(kept(cache)[0])
    assert hasattr(library.load_library(), SYMBOL) and hasattr(library.load_library(), SYMBOL)
    assert compiled() == 2 and len(kept(cache)) == 1
    [record] = caplog.records
    assert "is damaged, or others may write to it" in record.getMessage()


def test_what_a_killed_compile_left_is_removed(cache, compiler, real):
    compiler(f'cp {real} "$last"')
    library.load_library()
    path = kept(cache)[0]
    path.unlink()
    (path.parent / "killed.part").mkdir()
    (path.parent / "killed.part" / "native.so").write_text("half")
    library.load_library()
    assert kept(cache) == [path]


def test_libraries_that_nobody_loads_any_more_are_removed(cache, compiler, real):
    compiled = compiler(f'cp {real} "$last"')
    library.load_library()
    [first] = kept(cache)
    old = time.time() - (library.UNUSED_DAYS + 1) * 24 * 3600
    os.utime(first, (old, old))
    library.load_library()  # which is a use of it
    library.load_library("-DSECOND")
    assert compiled() == 2 and len(kept(cache)) == 2
    os.utime(first, (old, old))
    library.load_library("-DTHIRD")
    assert compiled() == 3 and len(kept(cache)) == 2 and first not in kept(cache)


def test_one_library_serves_all_environments(cache, compiler, real, monkeypatch):
    """Those with other folders of jaxlib's headers, and those without a temporary folder."""
    compiled = compiler(f'cp {real} "$last"')
    library.load_library()
    monkeypatch.setattr(library, "INCLUDE", ("-isystem", "/another/environment"))
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert hasattr(library.load_library(), SYMBOL) and compiled() == 1


def test_where_jax_keeps_no_programs(cache, compiler, real, monkeypatch, tmp_path):
    """As in a process that only imports the package: the user's folder serves, if any is to."""
    compiled = compiler(f'cp {real} "$last"')
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setitem(library._beside_none, "folder", library._beside_none["folder"])
    for folder, times in ((str(tmp_path / "home"), 1), ("", 3)):
        library.keep_in(folder)
        assert hasattr(library.load_library(), SYMBOL) and hasattr(library.load_library(), SYMBOL)
        assert compiled() == times
    assert list((tmp_path / "home").rglob("*.so"))


def test_several_at_once_compile_once(cache, compiler, real):
    compiled = compiler(f'sleep 0.3; cp {real} "$last"')
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: library.load_library(), range(4)))
    assert all(hasattr(one, SYMBOL) for one in loaded) and compiled() == 1 and len(kept(cache)) == 1


def others_may_write(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def of_another_user(folder):
    folder.mkdir(parents=True)
    if os.geteuid():
        pytest.skip("only root gives folders away")
    os.chown(folder, 12345, 12345)


def a_link(folder):
    folder.parent.mkdir(parents=True)
    (folder.parent.parent / "target").mkdir()
    folder.symlink_to(folder.parent.parent / "target")


def below_a_file(folder):
    folder.parent.write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    (
        (others_may_write, "must be a folder of this user in which nobody else may write"),
        (of_another_user, "must be a folder of this user in which nobody else may write"),
        (a_link, "must be a folder of this user in which nobody else may write"),
        (below_a_file, "File exists"),
    ),
)
def test_a_folder_that_does_not_serve(spoil, reason, cache, compiler, real, caplog):
    """Nothing in it is loaded or changed; a temporary folder serves, and one line says why."""
    compiled = compiler(f'cp {real} "$last"')
    spoil(library._folder())
    assert hasattr(library.load_library(), SYMBOL) and compiled() == 1
    [record] = caplog.records
    assert record.getMessage().startswith("Native kernels are compiled anew, as none can be kept: ")
    assert reason in record.getMessage()
    assert not any(cache.parent.rglob("*.so"))


def test_no_room_is_not_blamed_on_the_compiler(cache, compiler, real, caplog, monkeypatch):
    compiled = compiler(f'cp {real} "$last"')

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert hasattr(library.load_library(), SYMBOL) and compiled() == 1
    [record] = caplog.records
    assert "none can be kept: [Errno 28] No space left on device" in record.getMessage()


def test_a_folder_that_nothing_is_executed_from(cache, compiler, real, caplog, monkeypatch):
    """As with the mount option noexec: what is kept is loaded from a copy, and not compiled again."""
    compiled, load = compiler(f'cp {real} "$last"'), ctypes.CDLL

    def refusing(path):
        if path.startswith(str(cache)):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refusing)
    for _ in range(2):
        assert hasattr(library.load_library(), SYMBOL)
    assert compiled() == 1 and len(caplog.records) == 2
    assert "temporary folder: " in caplog.text and "failed to map segment" in caplog.text


@pytest.mark.parametrize("cxx", ("env {}", "{} -m64 -DNAME='a b'", '"{}"'))
def test_cxx_is_split_as_a_shell_would(cxx, cache, compiler, real, tmp_path):
    compiled = compiler(f'cp {real} "$last"', cxx)
    library.load_library()
    assert compiled() == 1
    assert ("-m64 -DNAME=a b -std" in (tmp_path / "counts").read_text()) == ("-m64" in cxx)


FAILURES = {
    "cannot be run": ("", "/nowhere/c++", "$CXX or c++ cannot be run: [Errno 2]"),
    "an open quote": ("", "g++ 'x", "$CXX: No closing quotation"),
    "says why": ("echo note >&2; echo 'a.cc:1: error: b' >&2; exit 1", "{}", "a.cc:1: error: b"),
    "not UTF-8": (r"printf '\377\376 error \200' >&2; exit 1", "{}", r"\xff\xfe error \x80"),
    "says nothing": ("exit 3", "{}", "ended with 3"),
    "makes nothing": ("exit 0", "{}", "wrote no library"),
    "makes text": ('echo text > "$last"', "{}", "file too short"),
    "hangs and prints": ("echo working; echo working >&2; sleep 50", "{}", "did not end in 0.4 seconds"),
    "without a symbol": (f'cp {_ctypes.__file__} "$last"', "{}", "undefined symbol: resnet_forward"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_whatever_fails_xla_serves(case, cache, compiler, caplog, monkeypatch):
    """One line says why, and several threads that ask at once get the same answer from one try."""
    makes, cxx, reason = FAILURES[case]
    compiled = compiler(makes, cxx)
    monkeypatch.setattr(library, "COMPILE_SECONDS", 0.4 if "hangs" in case else 60)
    monkeypatch.setattr(native, "_registered", functools.cache(native._registered.__wrapped__))
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: native.in_use(), range(8))) == [False] * 8
    [record] = caplog.records
    assert record.getMessage().startswith(
        "XLA's operations, which are slower, serve instead of native kernels: "
    )
    assert reason in record.getMessage()
    assert compiled() <= 1 and time.monotonic() - began < 30


def test_names_that_are_not_utf8(compiler, real, caplog, monkeypatch, tmp_path):
    """A folder named in another encoding serves, and can be told of."""
    compiler(f'cp {real} "$last"')
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    monkeypatch.setattr(library, "_folder", lambda: odd / "native")
    library.load_library()
    empty(next((odd / "native").glob("*.so")))
    library.load_library()
    caplog.text.encode()
    assert r"caf\udce9" in caplog.text
