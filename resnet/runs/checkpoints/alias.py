"""A plain path to a folder of any name, for libraries that give some characters a meaning.

Orbax takes brackets, stars and backslashes anywhere in a path for a pattern, tensorstore takes `://` for
a URL, and neither takes a name that is not UTF-8. File systems allow all of these names.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PLAIN = re.compile(r"(/[\w.,+=@ -]+)+", re.ASCII)


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """While entered, an absolute path of plain letters for `folder`: its own, or that of a link to it."""
    folder = folder.absolute()
    if _PLAIN.fullmatch(str(folder)):
        yield folder
        return
    # Where even the temporary folders have such a name, the one that every Unix has.
    home = tempfile.gettempdir()
    home = home if _PLAIN.fullmatch(home) else "/tmp"
    with tempfile.TemporaryDirectory(prefix="resnet-", dir=home) as temporary:
        link = Path(temporary, "linked")
        link.symlink_to(folder)
        yield link
