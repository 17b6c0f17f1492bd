"""Tests the sentences of the idea, and writes docs/claims.md: python scripts/claims.py

Minutes on two CPU cores; nets that were trained for it before, in --workdir, are not trained again.
Prints the verdicts as one JSON object.
"""

import cli

cli.define_path("output", "docs", "Folder for claims.md and its pictures.")
cli.define_path("workdir", "runs/claims", "Folder for the nets that are trained.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.analysis.claims.write_page."""
    from resnet.analysis.claims import Bench, write_page
    from resnet.analysis.evidence import TESTS
    from resnet.config import load_config
    from resnet.errors import InputError

    if overrides:
        raise InputError(f"{overrides[0]} does not apply: the page has configs of its own")
    chain, digits = (load_config(f"configs/{name}.py") for name in ("chain", "digits_small"))
    cli.prepare(digits)
    bench = Bench(chain, digits, cli.FLAGS.workdir)
    return write_page(TESTS, bench, cli.FLAGS.output, cli.command())


if __name__ == "__main__":
    cli.run(main)
