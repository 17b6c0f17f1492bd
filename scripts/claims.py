"""Tests the sentences of the idea, and writes docs/claims.md: python scripts/claims.py

Minutes on two CPU cores; nets that were trained for it before, in --workdir, are not trained again. With
--only the claims of some files of resnet/analysis/claims are tested, and no page is written. Prints the
verdicts as one JSON object.
"""

import cli
from absl import flags

cli.define_path("output", "docs", "Folder for claims.md and its pictures.")
cli.define_path("workdir", "runs/claims", "Folder for the nets that are trained.")
flags.DEFINE_list("only", [], "Groups of claims to test, with commas between: identity, depth, activations, "
                  "information, outputs, trained.")  # fmt: skip


def main(overrides: list[str]) -> dict:
    """One call of write_claims, or of Claim.test for the claims of some groups."""
    from resnet.analysis.claims.claim import Bench
    from resnet.analysis.claims.groups import GROUPS
    from resnet.analysis.claims.page import write_claims
    from resnet.config import load_config
    from resnet.errors import InputError, check_choice

    if overrides:
        raise InputError(f"{overrides[0]} does not apply: the page has configs of its own")
    for name in cli.FLAGS.only:
        check_choice("--only", name, GROUPS)
    chain, digits, rotation = (
        load_config(f"configs/{name}.py") for name in ("chain", "digits_small", "digits_rotation")
    )
    cli.prepare_process(digits)
    bench = Bench(chain, digits, rotation, cli.FLAGS.workdir)
    if cli.FLAGS.only:
        findings = [claim.test(bench) for name in cli.FLAGS.only for claim in GROUPS[name]]
        return {each.claim.sentence: {"holds": each.holds, "text": each.text} for each in findings}
    claims = [claim for group in GROUPS.values() for claim in group]
    return write_claims(claims, bench, cli.FLAGS.output, cli.command())


if __name__ == "__main__":
    cli.run(main)
