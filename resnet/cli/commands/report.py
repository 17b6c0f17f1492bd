"""Makes a page of a study, or of any runs: resnet report --workdir=runs/study

Writes report.md, report.html (one file, pictures inside), runs.csv, curves.csv and the figures into the
study's folder, finished or not. With --runs=runs/a,runs/b --output=FOLDER the same for runs that no study
made: one arm for each config, its seeds the runs that differ in nothing else, compared with the first one.
With --again=FOLDER --output=FOLDER a page on how far the same arms and seeds lie apart in two folders of a
study. With --ledger, the study's arms that name a published number are recorded in results/ledger.csv too,
and results/ledger.md is made of it; --ledger alone makes the page. Prints how many runs are in which state
as one JSON object.
"""

from absl import flags

from resnet.cli import options as cli


def define() -> None:
    """Defines the flags of the command."""
    cli.define_path("workdir", None, "Folder of a study, or one of results/studies.")
    cli.define_paths("runs", "Folders of runs, with commas between, instead of a study's.")
    cli.define_path(
        "again", None, "Folder of the same study, trained again: how far the same seeds lie apart."
    )
    cli.define_path("output", None, "Folder for the page of --runs or --again.")
    flags.DEFINE_bool(
        "ledger", False, "Record the claims of the study in --workdir, if given; make the page."
    )
    flags.DEFINE_string("title", "Runs", "Title of the page of --runs or --again.")


def main(overrides: list[str]) -> dict:
    """One call of write_report, or of the update of the ledger, or of both."""
    given = cli.FLAGS
    if given.ledger:
        cli.refuse("--ledger", "runs", "again", "output", "title", overrides=overrides)
        from resnet.studies.pages.ledger_page import update

        counts = update(given.workdir)
        return (_study() if given.workdir else {}) | counts
    if given.runs:
        cli.refuse("--runs", "workdir", "again", overrides=overrides)
        return _runs()
    cli.require("workdir")
    if given.again:
        cli.refuse("--again", overrides=overrides)
        return _again()
    cli.refuse("--workdir alone", "output", "title", overrides=overrides)
    return _study()


def _study() -> dict:
    """The page of a study, in its folder."""
    from resnet.studies.kept import open_study
    from resnet.studies.pages.report import write_report

    return write_report(open_study(cli.FLAGS.workdir))


def _runs() -> dict:
    """The page of runs that no study made."""
    cli.require("output")
    from resnet.studies.collected import collect
    from resnet.studies.pages.report import write_report

    return write_report(collect(cli.FLAGS.runs, cli.FLAGS.output, cli.FLAGS.title))


def _again() -> dict:
    """The page of a study that was trained twice."""
    cli.require("output")
    from resnet.studies.kept import open_study
    from resnet.studies.pages.repeated import write_repetition

    first, again = open_study(cli.FLAGS.workdir), open_study(cli.FLAGS.again)
    return write_repetition(first, again, cli.FLAGS.output, cli.FLAGS.title)
