"""docs/claims.md: each sentence of the idea as a claim, the command that tests it, its figure and verdict."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from absl import logging

from resnet.config import Config
from resnet.files import replacing, save_png
from resnet.runs.provenance import origin_lines, this_session
from resnet.runs.tables import markdown_table

PAGE, PICTURES = "claims.md", "claims"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One sentence, tested."""

    sentence: str
    command: str
    """What tests it by hand."""
    rows: list[dict[str, Any]]
    holds: Literal["yes", "in part", "no"]
    verdict: str
    """What was found, and where the truth is subtler than the sentence."""
    pictures: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Matplotlib figures by file name."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the tests of claims share."""

    chain: Config
    """configs/chain.py."""
    digits: Config
    """configs/digits_small.py."""
    runs: Path
    """Where nets are trained; finished runs are not trained again."""
    images: int = 32
    seeds: int = 2


Test = Callable[[Bench], Sequence[Claim]]


def write_page(tests: Sequence[Test], bench: Bench, folder: Path, command: str) -> dict[str, Any]:
    """Runs the tests and writes the page with its pictures; {"claims", "holds": verdicts, "seconds"}."""
    started, claims = time.monotonic(), []
    for test in tests:
        begun = time.monotonic()
        claims += test(bench)
        logging.info("%s: %.0f s", getattr(test, "__name__", test), time.monotonic() - begun)
    seconds = time.monotonic() - started
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for name, figure in (item for claim in claims for item in claim.pictures.items()):
        with replacing(folder / PICTURES / name) as temporary:
            save_png(figure, temporary)
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(_page(claims, command, seconds))
    holds = [claim.holds for claim in claims]
    return {"page": str(folder / PAGE), "holds": holds, "seconds": round(seconds)}


def _page(claims: Sequence[Claim], command: str, seconds: float) -> str:
    origin = "\n".join(origin_lines([this_session(command)]))
    head = (
        "# The idea, claim by claim\n\n"
        "The identity function returns its input. As a path around layers it should carry signal and "
        "gradient through any depth. Each sentence of that idea stands here with the command that tests "
        "it, the figure it gives, and a verdict, which says so where the truth is subtler.\n\n"
        f"`make claims` wrote this page in {seconds:.0f} s.\n\n{origin}\n\n"
        "Rates are of 40 equal blocks of two 3x3 convolutions at their start, 64 channels, 8x8 pixels, "
        "circular borders, noise for images; 95 % intervals over blocks and seeds stand in brackets. "
        "Theory is of endless layers and batches: it agrees where the interval holds it or comes within 5 "
        "%. Nets in runs/claims that are trained already are not trained again, and not in this time.\n"
    )
    summary = markdown_table(
        [
            {"claim": f"[{i}. {claim.sentence}](#claim-{i})", "holds": claim.holds}
            for i, claim in enumerate(claims, 1)
        ]
    )
    return "\n".join([head, summary, *(_section(i, claim) for i, claim in enumerate(claims, 1))])


def _section(number: int, claim: Claim) -> str:
    pictures = "".join(f"\n![{claim.sentence}]({PICTURES}/{name})\n" for name in claim.pictures)
    table = markdown_table(claim.rows, floatfmt=".4g")
    return (
        f'\n## <a id="claim-{number}"></a>{number}. {claim.sentence}\n\n'
        f"**Holds: {claim.holds}.** "
        f"{claim.verdict}\n\n```sh\n{claim.command}\n```\n\n{table}\n{pictures}"
    )
