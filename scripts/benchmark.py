"""Measures the speed of this machine: python scripts/benchmark.py --parts=training,seeds --cases=resnet20

Everything that is compared is run in turn, A B A B. Results are added to --output with a page and a plot
beside it, and to the README's table; parts that are not measured anew stay. What is compared with PyTorch
needs requirements-torch.txt and timm; without them ours is measured alone. Prints the medians of the ratios
as one JSON object.
"""

import itertools
from pathlib import Path

import cli
from absl import flags, logging

from resnet.errors import InputError, check_choice

ROOT = Path(__file__).parents[1]


def main(overrides: list[str]) -> dict:
    """Calls of scripts.benchmarks."""
    cli.refuse_overrides(overrides, "the nets have their own configs")
    from resnet.processors import processors
    from resnet.runtime.machine import count_devices, keep_memory

    keep_memory()
    count_devices(0, processors())
    from resnet.files import check_writable
    from resnet.models.grammar import CHOICES
    from scripts.benchmarks import report
    from scripts.benchmarks.parts import PARTS, Effort, case_named
    from scripts.benchmarks.timing import watched

    check_choice("--dtype", cli.FLAGS.dtype, CHOICES["dtype"])
    chosen = _chosen({name: part.cases for name, part in PARTS.items()})
    typed = [name for name, part in PARTS.items() if part.any_type]
    fixed = [name for name, _ in chosen if name not in typed]
    if cli.FLAGS.dtype != "float32" and fixed:
        raise InputError(
            f"`--dtype` is for --parts={','.join(typed)}; got {cli.FLAGS.dtype!r} and the part {fixed[0]}"
        )
    effort = Effort(cli.FLAGS.rounds, cli.FLAGS.seconds, cli.FLAGS.compiled, cli.FLAGS.dtype)
    output = cli.FLAGS.output or report.kept(ROOT, report.kind())
    check_writable(output)
    origin = report.provenance(cli.command())  # before results change the working tree
    entries: report.Entries = {}
    known = report.read(output) if cli.FLAGS.missing else {}
    for name, case_name in chosen:
        case = case_named(case_name, cli.FLAGS.quick)
        key = f"{name}/{case.name}" + ("" if effort.dtype == "float32" else f"_{effort.dtype}")
        if key in known:
            continue
        with watched() as noted:
            found = PARTS[name].measure(case, effort)
        logging.info("%s/%s: %s %s", name, case.name, found["medians"], found["ratios"])
        about = {"batch": case.batch, "side": case.side, "dtype": effort.dtype} | noted
        entries[key] = about | found | origin
        # Written one by one: what is measured stays if a later one fails.
        merged = report.add(output, entries)
        if not cli.FLAGS.quick and output == report.kept(ROOT, report.IN_README):
            report.write_readme(ROOT / "README.md", merged)
    return {key: {name: r[1] for name, r in entry["ratios"].items()} for key, entry in entries.items()}


def _chosen(cases: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """The parts and cases to measure, of all `cases` by part; InputError for names that are not there."""
    for part in cli.FLAGS.parts:
        check_choice("--parts", part, cases)
    cases = {part: cases[part] for part in cli.FLAGS.parts or cases}
    for case in cli.FLAGS.cases:
        check_choice("--cases", case, dict.fromkeys(itertools.chain(*cases.values())))
    chosen = {
        part: [case for case in cases[part] if case in (cli.FLAGS.cases or cases[part])] for part in cases
    }
    return [(part, case) for part in chosen for case in chosen[part][: 1 if cli.FLAGS.quick else None]]


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_list("parts", [], "What to measure, separated by commas; by default everything.")
    flags.DEFINE_list("cases", [], "Nets to measure, separated by commas; by default all of each part.")
    flags.DEFINE_integer("rounds", 15, "Most rounds of A B A B.", lower_bound=2)
    flags.DEFINE_float("seconds", 60.0, "Seconds after which no new round of a comparison begins.")
    flags.DEFINE_string("dtype", "float32", "float32, or bfloat16 for a GPU.")
    flags.DEFINE_bool("compiled", False, "Whether torch.compile takes part, which compiles for minutes.")
    flags.DEFINE_bool("missing", False, "Measure only what the file does not have yet.")
    flags.DEFINE_bool("quick", False, "A tiny net in place of each, to try the script out; no README.")
    cli.define_path("output", None, "JSON file; by default results/benchmark_<kind of device>.json.")


if __name__ == "__main__":
    cli.run(main, define)
