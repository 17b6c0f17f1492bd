"""Makes a page of a study or of runs: the command `resnet report`, from a clone."""

import cli

from resnet.cli.commands import report

if __name__ == "__main__":
    cli.run(report.main, report.define)
