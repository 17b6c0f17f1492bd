"""The page of what was tried to lose a run: what it sums up, and what is refused instead of an empty page."""

import json

import pytest

from resnet.cli import options as cli
from scripts import reliability, soak


def test_a_page_sums_up_the_rows_of_its_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "rows").mkdir()
    parts = [{"tries": 2, "losses": 0, "phases": {"save": 2}}, {"tries": 3, "losses": 1}]
    (tmp_path / "rows/kill.json").write_text(json.dumps({"fault": "SIGKILL", "parts": parts}))
    monkeypatch.chdir(tmp_path / "rows")
    cli.run(reliability.main, reliability.define, ["--rows=."])
    assert json.loads(capsys.readouterr().out) == {"tries": 5, "losses": 1, "page": f"{tmp_path / 'rows'}.md"}
    assert "| SIGKILL" in (tmp_path / "rows.md").read_text()


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (reliability, ["--rows=nothing"], "nothing holds no rows, which are JSON files; name another folder"),
        (reliability, ["--rows=damaged"], "damaged/a.json is unreadable: "),
        (reliability, ["--config.seed=4"], "--config.seed=4 does not apply: no config is read here"),
        (
            soak,
            ["--workdir=w", "--config.seed=4"],
            "--config.seed=4 does not apply: the run has its own config",
        ),
    ],
)
def test_what_cannot_work_is_refused(script, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/a.json").write_text('{"fault": ')
    with pytest.raises(SystemExit) as end:
        cli.run(script.main, script.define, arguments)
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]
