"""The pages of the benchmark: what is measured anew, how each row came about, the README's table."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from resnet.cli import options as cli
from resnet.runtime import machine
from scripts import benchmark as script
from scripts.benchmarks import parts, report, timing
from scripts.benchmarks.parts import PARTS

ROOT = Path(__file__).parents[1]


def entry(**fields):
    known = timing.compared({"PyTorch": [1.0, 1.1, 1.0], "ours": [1.5, 1.4, 1.6]}, "PyTorch", "s")
    return {"batch": 4, "side": 32, "dtype": "float32"} | known | report.provenance("a command") | fields


def test_what_is_measured_anew_takes_the_place_of_what_was(tmp_path):
    path = tmp_path / "benchmark_cpu.json"
    report.add(path, {"training/wrn16_4": entry(), "inference/resnet20": entry()})
    merged = report.add(path, {"training/resnet20": entry(), "training/wrn16_4": entry(batch=7)})
    assert list(merged) == ["training/resnet20", "training/wrn16_4", "inference/resnet20"]
    assert json.loads(path.read_text())["training/wrn16_4"]["batch"] == 7
    text = path.with_suffix(".md").read_text()
    assert "a command" in text and "1.5 (1.50: 1.39 to 1.55)" in text
    assert path.with_suffix(".png").stat().st_size > 1000


def test_each_row_of_a_page_names_its_run():
    def measured(command, commit):
        git = {"commit": commit, "dirty": False}
        return entry(command=command, git=git, machine={"backend": "cpu", "kinds": ["cpu"], "cpu_count": 2})

    entries = {
        "training/resnet20": measured("first", "a" * 40),
        "training/resnet56": measured("second", "b" * 40),
    }
    entries |= {"inference/resnet20": measured("first", "a" * 40)}
    lines = report.page(entries, "speed.png").splitlines()
    rows = [line for line in lines if line.startswith("| resnet")]
    assert [row.split("|")[-2].strip() for row in rows] == ["1", "2", "1"]
    runs = lines[lines.index("## Runs") :]
    assert runs[2].startswith(f"1. `first`: commit {'a' * 12}, ") and ", 2 processors, python " in runs[2]
    assert runs[3].startswith(f"2. `second`: commit {'b' * 12}, ") and len(runs) == 4


def test_the_readme_holds_what_was_measured():
    text = (ROOT / "README.md").read_text().split(report.BEGIN)[1].split(report.END)[0]
    measured = {kind: report.read(report.kept(ROOT, kind)) for kind in ("cpu", "cpu_avx2")}
    assert text.strip() == report.readme_table(measured[report.IN_README])
    for kind, entries in measured.items():
        page = (ROOT / f"results/benchmark_{kind}.md").read_text()
        assert entries and page == report.page(entries, f"benchmark_{kind}.png")


@pytest.mark.parametrize("device", ("cpu", "cpu_avx2", "gpu"))
def test_the_readme_keeps_to_its_kind_of_device(device, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "README.md", tmp_path)
    found = timing.compared({"PyTorch": [1.0, 1.1, 1.0], "ours": [1.5, 1.4, 1.6]}, "PyTorch", "s")
    measured = {"training": dataclasses.replace(PARTS["training"], measure=lambda *_: found)}
    monkeypatch.setattr(parts, "PARTS", measured)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(report, "kind", lambda: device)
    monkeypatch.setattr(machine, "keep_memory", lambda: None)
    monkeypatch.setattr(machine, "count_devices", lambda *_: None)
    cli.run(script.main, script.define, ["--cases=resnet20"])
    assert report.kept(tmp_path, device).exists()
    changed = (tmp_path / "README.md").read_text() != (ROOT / "README.md").read_text()
    assert changed == (device == report.IN_README)


def test_times_of_stock_flax_are_drawn_over_a_step_of_ours():
    def measured(step):
        shares = {"copies": [0.2, 0.25, 0.3], "norms": [0.7, 0.75, 0.8]}
        return entry(medians={"step": step}, ratios=shares, reference="step")

    alone = {"operations_stock/other": measured(2.0)}
    assert report.plot_times(alone) is None
    entries = {"operations/net": measured(4.0), "operations_stock/net": measured(8.0), **alone}
    axes = report.plot_times(entries).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["net, ours", "net, stock Flax"]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths == [[0.25, 0.5], [0.75, 1.5]]
