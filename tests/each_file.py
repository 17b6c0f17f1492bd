"""A rule for every file as one test: a test for each of hundreds of files takes longer than the rule."""

from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]


def each_file(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Makes the test of a rule, an assertion about a path; it names all files where the rule is broken."""

    def decorate(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for path in paths:
                try:
                    rule(path)
                except AssertionError as error:
                    broken.append(f"{path.relative_to(ROOT).as_posix()}: {error}")
            assert not broken, "\n".join(broken)

        test.__doc__ = rule.__doc__
        return test

    return decorate
