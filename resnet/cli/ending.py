"""How the process of a command ends: an exit code, and at most one line on stderr.

The first import of every command: what it sets up stands before the imports that take a second.
"""

import codecs
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

USER_ERROR = 2
INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 128 + signal.SIGPIPE
FAILED = 1
# What a disk answers that is full, read-only, not ours, broken or away.
_REFUSED = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE")
}


def set_up() -> None:
    """Makes standard streams that take any text, and a handler of Ctrl-C."""
    _open_what_is_closed()
    codecs.register_error("as_named", _as_named)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="as_named")  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, _interrupt)


def _open_what_is_closed() -> None:
    """Opens /dev/null for a standard stream that the shell closed: the next file would get its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _as_named(error: UnicodeError) -> tuple[bytes, int]:
    """Names that are not UTF-8 as the bytes they are; escapes for what else an encoding has not."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    parts = [
        bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else c.encode("ascii", "backslashreplace")
        for c in text
    ]
    return b"".join(parts), error.end


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the process in an import, which may swallow an exception, and where nothing is lost yet."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _say("stopped by SIGINT at the start")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Ends the process with a line and an exit code for what is not a bug."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Its reader had enough, as `head` has. What Python still holds back must not be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(CLOSED_PIPE)
    except KeyboardInterrupt:
        _say("stopped by SIGINT")
        sys.exit(INTERRUPTED)
    except Exception as error:
        known, code = _known(error)
        if code is None:
            raise
        _say(f"{known}{_page(known)}")
        sys.exit(code)


def _known(error: Exception) -> tuple[Exception, int | None]:
    """(what to say, exit code) of an error that is no bug; None for the code of a bug."""
    from absl import flags

    from resnet.errors import InputError

    # An early end that was announced carries its exit code.
    if code := getattr(error, "exit_code", None):
        return error, code
    if isinstance(error, OSError) and error.errno in _REFUSED:
        place = f"{error.filename}: " if error.filename else ""
        return OSError(f"{place}{error.strerror}; once that is mended, give the same command again"), FAILED
    if "RESOURCE_EXHAUSTED" in str(error) and type(error).__name__ == "JaxRuntimeError":
        return InputError(
            f"the memory of the devices does not suffice ({str(error).splitlines()[0]}): train with a "
            "higher `train.accumulate`, a lower `train.batch_size` or `model.remat`, in a new workdir; "
            "evaluate with a higher `train.accumulate`; analyze fewer --images"
        ), FAILED
    if not isinstance(error, flags.Error | InputError) and "jax" in sys.modules:
        # JAX starts its devices at the first computation, and fails there in several ways.
        from resnet.runtime.machine import check_devices
        from resnet.runtime.processes import several

        try:
            if not several():  # they would start in all processes together, and the others may not come
                check_devices()
        except InputError as reason:
            error = reason
    return error, USER_ERROR if isinstance(error, flags.Error | InputError) else None


def _page(error: Exception) -> str:
    """Where to read more of what was refused."""
    from resnet.errors import InputError, page_of

    page = page_of(error) if isinstance(error, InputError) else ""
    return f" ({page})" if page else ""


def _say(text: str) -> None:
    """One line on stderr, whatever the message holds, if anybody reads it."""
    with contextlib.suppress(OSError):
        print("error:", " ".join(text.split()), file=sys.stderr, flush=True)
