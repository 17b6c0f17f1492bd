"""Parameters of a test, of which `make test` takes the first few and `make test-all` the others too."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(count: int, values: Iterable[Any]) -> list[Any]:
    """The values, all but the first `count` marked thorough. For tests that cost the same for each value."""
    return [
        value if place < count else pytest.param(value, marks=pytest.mark.thorough)
        for place, value in enumerate(values)
    ]
