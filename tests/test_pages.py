"""What the pages say can be done: commands, options, fields, recipes, studies and links; and their sums."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnet import recipes
from resnet.cli.main import COMMANDS, load_command
from resnet.cli.options import FLAGS, flags_of, override, split_overrides
from resnet.config import Config
from resnet.data.config import DataConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED = {"config": "config", "compare": "config", "study": "study"}


def commands(page: Path) -> list[list[str]]:
    """The words after `resnet` of every command in the shell blocks of a page, whatever stands before it."""
    lines = "".join(BLOCK.findall(page.read_text())).replace("\\\n", "").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("resnet") + 1 :] for line in words if "resnet" in line]


GIVEN = [(page.name, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), GIVEN, ids=lambda given: " ".join(given))
def test_a_command_on_a_page_can_be_given(page, words, monkeypatch):
    name, *arguments = words
    assert name in COMMANDS
    monkeypatch.setattr(sys, "argv", ["resnet", *words])
    with flags_of(load_command(name).define):
        own, overrides = split_overrides([each for each in arguments if each not in ("--help", "&")])
        FLAGS(["", *own])
        for flag, what in NAMED.items():
            if flag in FLAGS and FLAGS[flag].value:
                recipes.find(FLAGS[flag].value, what)
    fields = {each.split("=")[0] for each in overrides}
    # Some values are of a run that is not here: that each field is one, and takes its value, is what counts.
    assert len(fields) == len(overrides)
    for each in overrides:
        if "init_drop" not in each:
            of_files = DataConfig(name="mnist") if "data.dir" in each else DataConfig()
            override(Config(data=of_files), [each])


def test_there_are_commands_on_the_pages():
    assert len(GIVEN) > 20 and {words[0] for _, words in GIVEN} >= {"train", "study", "analyze", "import"}


@pytest.mark.slow
def test_the_pages_are_a_site_without_a_broken_link(tmp_path):
    """Built from a copy as `make docs` builds them; a link that leads nowhere ends it."""
    pytest.importorskip("material", reason="requirements-docs.txt is not installed")
    for name in ("docs", "resnet", "results", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)

    def build():
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert build().returncode == 0
    site = (tmp_path / "build/site/index.html").read_text()
    assert 'href="data.html"' in site and "results/studies/fashion_depth/depth.png" in site
    with (tmp_path / "CONTRIBUTING.md").open("a") as file:
        file.write("\n[gone](docs/data.md#no-such-heading)\n")
    broken = build()
    assert broken.returncode and "no-such-heading" in broken.stderr


def test_what_the_page_of_studies_says_of_pairing_is_what_the_reports_hold():
    rows = []
    for report in (ROOT / "results/studies").glob("*/report.md"):
        if report.parent.name != "grammar":
            head: list[str] = []
            for line in report.read_text().splitlines():
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                if "correlation" in cells:
                    head = cells
                elif not line.startswith("|"):
                    head = []
                elif head and not line.startswith("|-"):
                    rows.append(dict(zip(head, cells, strict=True)))
    both = ("95 % interval", "unpaired")
    rows = [row for row in rows if row[both[0]]]  # a single pair has no interval
    widths = [[np.ptp([*map(float, row[name].split(" to "))]) for row in rows] for name in both]
    correlations = [float(row["correlation"]) for row in rows if row["correlation"]]
    text = " ".join((ROOT / "results/studies/README.md").read_text().split())
    assert f"Over the {len(rows)} comparisons" in text
    assert f"correlation of two arms over their seeds is {np.median(correlations):.2f}" in text
    assert f"{np.median(np.divide(*widths)):.2f} times as wide as the unpaired ones" in text
