"""Tests the sentences of the idea, and writes docs/claims.md: python scripts/claims.py

Minutes on two CPU cores; nets that were trained for it before, in --workdir, are not trained again. With
--only the claims of these numbers on the page are tested, and no page is written. Prints the verdicts, and
with --only what was measured, as one JSON object.
"""

from pathlib import Path

import cli
from absl import flags

ROOT = Path(__file__).resolve().parents[1]


def main(overrides: list[str]) -> dict:
    """One call of write_claims, or of Claim.test for some claims."""
    from resnet.analysis.claims.claim import Bench
    from resnet.analysis.claims.kept import load_accuracies
    from resnet.analysis.claims.page import CLAIMS, PAGE, write_claims
    from resnet.config import load_config
    from resnet.errors import check_choice
    from resnet.files import check_writable

    cli.refuse_overrides(overrides, "the page has configs of its own")
    numbered = {str(number): claim for number, claim in enumerate(CLAIMS, 1)}
    for number in cli.FLAGS.only:
        check_choice("--only", number, numbered)
    check_writable(None if cli.FLAGS.only else cli.FLAGS.output / PAGE)
    chain, digits, rotation = (
        load_config(ROOT / "configs" / f"{name}.py") for name in ("chain", "digits_small", "digits_rotation")
    )
    cli.prepare_process(digits)
    bench = Bench(chain, digits, rotation, cli.FLAGS.workdir, load_accuracies(ROOT / "results/studies"))
    if cli.FLAGS.only:
        findings = [numbered[number].test(bench) for number in cli.FLAGS.only]
        return {
            each.claim.sentence: {
                "holds": each.holds,
                "judged": [*map(str, each.judged)],
                "found": each.shown,
            }
            for each in findings
        }
    return write_claims(CLAIMS, bench, cli.FLAGS.output, cli.command())


def define() -> None:
    """Defines the flags."""
    cli.define_path("output", str(ROOT / "docs"), "Folder for claims.md and its pictures.")
    cli.define_path("workdir", "runs/claims", "Folder for the nets that are trained.")
    flags.DEFINE_list("only", [], "Numbers of claims to test, with commas between.")


if __name__ == "__main__":
    cli.run(main, define)
