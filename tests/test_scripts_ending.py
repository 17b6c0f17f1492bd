"""How the process of a script ends: one line, an exit code, and nothing else."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from resnet.cli import ending
from resnet.errors import InputError
from resnet.runtime import machine
from resnet.runtime.signals import RunStopped

ROOT = Path(__file__).parents[1]


def program(text, *arguments, shell="", **options):
    """A process that a command set up, and that imports little; started by a line of `shell`, if given."""
    head = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\nfrom resnet.cli import ending\n"
    command = [sys.executable, "-c", f"{head}ending.set_up()\n{text}", *arguments]
    command = ["sh", "-c", shell, "sh", *command] if shell else command
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


SWALLOWING = """
import time
print("ready", flush=True)
for _ in range(600):
    try:
        time.sleep(0.1)
    except BaseException:
        pass
"""


def test_ctrl_c_ends_an_import_that_swallows_exceptions(tmp_path):
    (tmp_path / "slow.py").write_text(SWALLOWING)
    with program(f"sys.path.insert(0, {str(tmp_path)!r})\nimport slow") as process:
        assert process.stdout.readline() == b"ready\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130 and time.monotonic() - begun < 10
        assert process.stderr.read() == b"error: stopped by SIGINT at the start\n"


def test_ctrl_c_outside_of_imports_unwinds(capsys):
    previous = signal.signal(signal.SIGINT, ending._interrupt)
    left = []
    try:
        with pytest.raises(SystemExit) as end, ending.in_one_line():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                left.append("whole")
    finally:
        signal.signal(signal.SIGINT, previous)
    assert (end.value.code, left) == (130, ["whole"])
    assert capsys.readouterr().err == "error: stopped by SIGINT\n"


def no_device():
    raise InputError("JAX finds no device")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("`seed` must\nbe 1"), 2, "error: `seed` must be 1\n"),
        (RunStopped("stopped by SIGTERM at step 3", 143), 143, "error: stopped by SIGTERM at step 3\n"),
        (AssertionError(), 2, "error: JAX finds no device\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/page.md"),
            1,
            "error: run/page.md: No space left on device; once that is mended, give the same command again\n",
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nAll of it:\n"),
            1,
            "error: the memory of the devices does not suffice (RESOURCE_EXHAUSTED: Out of memory allocating "
            "9 bytes.): train with a higher `train.accumulate`, a lower `train.batch_size` or `model.remat`, "
            "in a new workdir; evaluate with a higher `train.accumulate`; analyze fewer --images\n",
        ),
    ],
)
def test_what_is_no_bug_is_one_line(monkeypatch, capsys, error, code, line):
    monkeypatch.setattr(machine, "check_devices", no_device)
    with pytest.raises(SystemExit) as end, ending.in_one_line():
        raise error
    assert end.value.code == code and capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), ending.in_one_line():
        raise ZeroDivisionError


def test_a_reader_that_has_enough_ends_it_quietly():
    text = "with ending.in_one_line():\n    while True: print('line')"
    with program(text) as process:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.wait() == 141 and process.stderr.read() == b""


def test_a_closed_stream_is_no_file_of_ours(tmp_path):
    text = "file = open(sys.argv[1], 'w'); print(file.fileno(), file=file); print('x', file=sys.stderr)"
    with program(text, str(tmp_path / "file"), shell='exec "$@" 2>&-') as process:
        assert process.wait() == 0
    assert int((tmp_path / "file").read_text()) > 2


def test_names_that_are_no_text_are_printed_as_they_are():
    text = "print(sys.argv[1], 'é'); print(sys.argv[1], file=sys.stderr)"
    with program(text, b"\xff[1]", env=os.environ | {"PYTHONIOENCODING": "ascii"}) as process:
        assert process.stdout.read() == b"\xff[1] \\xe9\n" and process.stderr.read() == b"\xff[1]\n"


def test_a_script_starts_as_a_module_too():
    command = [sys.executable, "-m", "scripts.train", "--workdir=x", "--nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "unknown option --nothing; --help lists the options" in done.stderr
