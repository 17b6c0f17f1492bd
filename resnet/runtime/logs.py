"""What a process tells its user while it works."""

import logging as python_logging
import re

from absl import logging

_LIBRARIES = re.compile(r"/(orbax|jax)/")


def log_to_stderr(verbosity: int = logging.INFO) -> None:
    """Logs absl's messages from `verbosity` on, and those of libraries from WARNING on."""
    options = logging.FLAGS  # type: ignore[attr-defined]
    if not options.is_parsed():  # in a job, which has no command line: absl would warn of it
        options.mark_as_parsed()
    logging.use_absl_handler()
    logging.set_verbosity(verbosity)
    logging.get_absl_handler().addFilter(_is_for_users)


def _is_for_users(record: python_logging.LogRecord) -> bool:
    return record.levelno >= python_logging.WARNING or not _LIBRARIES.search(record.pathname)
