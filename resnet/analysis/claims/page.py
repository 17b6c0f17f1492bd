"""docs/claims.md: each sentence of the idea, its hypothesis, the verdict, and the numbers behind it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from resnet.analysis.claims import activations, dead, depth, folded, identity, information, outputs, trained
from resnet.analysis.claims.claim import Bench, Claim, Finding
from resnet.analysis.laws import NO
from resnet.files import save_png, write_text
from resnet.runs.provenance import origin_lines, this_session
from resnet.runs.tables import markdown_table

PAGE, PICTURES = "claims.md", "claims"
FILES = (identity, depth, activations, information, outputs, trained, dead, folded)
CLAIMS: tuple[Claim, ...] = tuple(claim for file in FILES for claim in file.CLAIMS)
"""All claims, in the order of the page."""


def write_claims(claims: Sequence[Claim], bench: Bench, folder: Path, command: str) -> dict[str, Any]:
    """Tests the claims and writes the page with its pictures; {"page", "holds": verdicts, "seconds"}."""
    started, findings = time.monotonic(), []
    session = this_session(command)  # before a picture changes the checkout
    for claim in claims:
        begun, used = time.monotonic(), time.process_time()
        findings.append(claim.test(bench))
        taken = time.monotonic() - begun, time.process_time() - used
        logging.info("%s: %s (%.0f s, %.0f of processors)", claim.sentence, findings[-1].holds, *taken)
    seconds = time.monotonic() - started
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    drawn = [finding.claim.pictures(finding.rows) for finding in findings]
    for name, figure in (item for figures in drawn for item in figures.items()):
        save_png(figure, folder / PICTURES / name)
    write_text(folder / PAGE, _page(findings, [list(figures) for figures in drawn], session, seconds))
    holds = [finding.holds for finding in findings]
    return {"page": str(folder / PAGE), "holds": holds, "seconds": round(seconds)}


def _page(findings: list[Finding], pictures: list[list[str]], session: dict[str, Any], seconds: float) -> str:
    head = HEAD.format(seconds=seconds, origin="\n".join(origin_lines([session])))
    summary = markdown_table(
        [
            {"claim": f"[{i}. {finding.claim.sentence}](#claim-{i})", "holds": finding.holds}
            for i, finding in enumerate(findings, 1)
        ]
    )
    first: dict[int, int] = {}
    sections = []
    for number, (finding, names) in enumerate(zip(findings, pictures, strict=True), 1):
        measured = first.setdefault(id(finding.rows), number)
        sections.append(_section(number, finding, names, measured))
    return "\n".join([head, summary, *sections, OUTSIDE])


def _section(number: int, finding: Finding, names: list[str], measured: int) -> str:
    """`measured`: the first claim of the page that rests on these rows, and shows them."""
    claim = finding.claim
    commands = "\n".join(filter(None, (f"python scripts/claims.py --only={number}", claim.command)))
    drawn = "".join(f"\n![{claim.sentence}]({PICTURES}/{name})\n" for name in names)
    table = markdown_table(finding.shown, floatfmt=".4g") + "\n"
    if measured < number:
        table = f"The numbers behind it are those of [claim {measured}](#claim-{measured}).\n"
    return (
        f'\n## <a id="claim-{number}"></a>{number}. {claim.sentence}\n\n'
        f"Hypothesis: {claim.hypothesis}\n\n**Holds: {finding.holds}.** "
        f"{claim.otherwise * (finding.holds == NO)}\n\n{_checks(finding)}\n\n```sh\n{commands}\n```\n\n"
        f"{table}{drawn}"
    )


def _checks(finding: Finding) -> str:
    return markdown_table(
        [
            {"judged": check.what, "measured": str(check.found or "nothing"), "expected": check.expected,
             "holds": check.holds}
            for check in finding.judged
        ]
    )  # fmt: skip


HEAD = """# The idea, claim by claim

The identity function, `lambda x: x`, returns its input. As a shortcut around layers it should carry signal
and gradient through any depth. Each sentence of that idea stands here as a hypothesis with a rule, the
command that tests it, what was measured, and a verdict. Fixed rules turn the numbers into verdicts.
Brackets hold 95 % intervals, cut at what is possible, such as 0 and 100 %.

- **yes**: each interval lies where the hypothesis has it. A number that should equal another does if its
  interval holds that other, and is narrow enough to lie within the tolerance.
- **within tolerance**: it misses that by less than the factor stated, which is allowed to nets and batches
  because they are finite.
- **undecided**: a part of an interval lies there, and a part does not; more seeds would tell.
- **no**: all of an interval lies elsewhere.

*Signal* is the root mean square of x at a block, and *gradient* that of the loss's gradient with respect to
x. Both are given as factors: the signal behind the blocks over that before them, and the gradient before the
blocks over that behind them.

`make claims` wrote this page in {seconds:.0f} s.

{origin}

Unless said otherwise nets are chains of 40 equal blocks of two 3x3 convolutions at their start, 64 channels,
8x8 pixels, circular borders, with noise for images. Growth is judged over 27 blocks, the depth of a net of 56
layers. Nets in runs/claims that are trained already are not trained again, and not in this time.
"""
OUTSIDE = """
## Outside of what images can show

Sentences on other fields, such as language, recurrent nets or differential equations, are outside of what
this code base can test. Image classifiers of 8x8 to 28x28 pixels neither support nor contradict them.
"""
