"""docs/claims.md: each sentence of the idea, its hypothesis, the verdict, and the numbers behind it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from resnet.analysis.claims.claim import Bench, Claim, Finding
from resnet.files import replacing, save_png, write_text
from resnet.runs.provenance import origin_lines, this_session
from resnet.runs.tables import markdown_table

PAGE, PICTURES = "claims.md", "claims"


def write_claims(claims: Sequence[Claim], bench: Bench, folder: Path, command: str) -> dict[str, Any]:
    """Tests the claims and writes the page with its pictures; {"page", "holds": verdicts, "seconds"}."""
    started, findings = time.monotonic(), []
    for claim in claims:
        begun = time.monotonic()
        findings.append(claim.test(bench))
        logging.info("%s %s (%.0f s)", claim.sentence, findings[-1].holds, time.monotonic() - begun)
    seconds = time.monotonic() - started
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    drawn = [finding.claim.pictures(finding.rows) for finding in findings]
    for name, figure in (item for figures in drawn for item in figures.items()):
        with replacing(folder / PICTURES / name) as temporary:
            save_png(figure, temporary)
    write_text(folder / PAGE, _page(findings, [list(figures) for figures in drawn], command, seconds))
    holds = [finding.holds for finding in findings]
    return {"page": str(folder / PAGE), "holds": holds, "seconds": round(seconds)}


def _page(findings: list[Finding], pictures: list[list[str]], command: str, seconds: float) -> str:
    origin = "\n".join(origin_lines([this_session(command)]))
    head = (
        "# The idea, claim by claim\n\nThe identity function, `lambda x: x`, returns its input. As a path "
        "around layers it should carry signal and gradient through any depth. Each sentence of that idea "
        "stands here as a hypothesis with a rule, the command that shows it by hand, what was measured, "
        'and a verdict. The verdict and its text are made of the numbers by the rule: "yes" where the 95 % '
        'interval of each number meets what is expected of it, "within tolerance" where one misses it by '
        'no more than the factor stated, which is allowed to nets and batches that are finite, "no" where '
        'all of an interval misses it, and "undecided" where a part of it does: more seeds would tell.'
        f"\n\n`make claims` wrote this page in {seconds:.0f} s.\n\n{origin}\n\nUnless said "
        "otherwise nets are chains of 40 equal blocks of two 3x3 convolutions at their start, 64 channels, "
        "8x8 pixels, circular borders, with noise for images. Growth is judged over 27 blocks, the depth "
        "of a net of 56 layers. Nets in runs/claims that are trained already are not trained again, and "
        "not in this time.\n"
    )
    summary = markdown_table(
        [
            {"claim": f"[{i}. {finding.claim.sentence}](#claim-{i})", "holds": finding.holds}
            for i, finding in enumerate(findings, 1)
        ]
    )
    sections = [_section(i, *each) for i, each in enumerate(zip(findings, pictures, strict=True), 1)]
    return "\n".join([head, summary, *sections, OUTSIDE])


def _section(number: int, finding: Finding, names: list[str]) -> str:
    claim = finding.claim
    pictures = "".join(f"\n![{claim.sentence}]({PICTURES}/{name})\n" for name in names)
    shown = [{key: _cell(value) for key, value in row.items() if key[0] != "_"} for row in finding.rows]
    table = markdown_table(shown, floatfmt=".4g")
    return (
        f'\n## <a id="claim-{number}"></a>{number}. {claim.sentence}\n\n'
        f"Hypothesis: {claim.hypothesis}\n\n**Holds: {finding.holds}.** {finding.text}\n\n"
        f"```sh\n{claim.command}\n```\n\n{table}\n{pictures}"
    )


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else "" if value is None else str(value)


OUTSIDE = """
## Outside of what images can show

Sentences on other fields, such as language, recurrent nets or differential equations, are outside of what
this code base can test. Image classifiers of 8x8 and 16x16 pixels neither support nor contradict them.
"""
