"""Files beside the checkpoints that are cut, empty or full of noise: set aside, and the run goes on."""

import collections
import json
import math
import os
import random
import shutil
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet.config import Config, save_config
from resnet.models.chain import Flow
from resnet.runs import lock, open_run, provenance, rollbacks
from resnet.runs.metrics import records, telemetry
from resnet.runs.metrics.records import Records, read_json, read_metrics, write_json
from resnet.runs.rollbacks import Diverged, write_rollback
from resnet.runtime.devices import make_mesh
from resnet.training import loop
from tests.tally import record, tries

NAMES = ("run.json", "result.json", "failed.json", "rollbacks.json", "telemetry.csv", "metrics.jsonl")


def leave(workdir) -> None:
    """What a run of four steps leaves, but for its checkpoints."""
    save_config(Config(), workdir)
    write_json(workdir / "run.json", {"sessions": [{"command": "train", "seeds": [0]}]})
    write_json(workdir / "result.json", {"step": 4, "loss": math.nan})
    write_json(workdir / "failed.json", {"failed": "loss is nan", "step": 4})
    write_rollback(workdir, Diverged("loss is nan", 3, (3, 3)), 2, 0.5)
    for step in range(1, 5):
        logs = np.zeros(3)
        telemetry.append(
            workdir, step, Flow(("a", "b"), x=logs, branch=logs[1:], cosine=logs[1:], gradient=logs)
        )
    with Records(workdir, 4, boards=()) as out:
        for step in range(1, 5):
            out.write(step, {"loss": 1 / step}, "train")


def take_up(workdir, step: int) -> None:
    """All that a resume reads beside the checkpoints, in its order."""
    assert (open_run.outcome(workdir, Config(), held=True) or {"step": 4})["step"] == 4
    provenance.write_run_json(workdir, Config(), "again")
    assert provenance.last_session(workdir)["command"] == "again"
    assert all(each["to"] == 2 for each in rollbacks.read_rollbacks(workdir))
    with Records(workdir, 4, step, boards=()) as out:
        out.write(step + 1, {"loss": 0.5}, "train")
    telemetry.forget_rows_after(workdir, step)
    rows = telemetry.read(workdir)
    blocks = {n: [row["block"] for row in rows if row["step"] == n] for n in range(1, step + 1)}
    assert len(rows) == sum(map(len, blocks.values()))
    assert len({tuple(names) for names in blocks.values() if names}) <= 1
    telemetry.last_words(workdir)
    steps = [line["step"] for line in read_metrics(workdir)]
    assert steps == sorted(set(steps)) and steps[-1] == step + 1


def damaged(content: bytes, how: str, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    if how == "cut":
        return content[:place]
    if how == "zeros":
        return bytes(len(content))
    if how == "noise":
        return draw.randbytes(draw.randrange(200))
    return content[:place] + bytes([draw.randrange(128, 256)]) + content[place + 1 :]  # no UTF-8, mostly


@pytest.mark.thorough
def test_no_damage_of_a_side_file_ends_a_resume(tmp_path_factory):
    found = collections.Counter()

    @settings(max_examples=tries(60))
    @given(
        name=st.sampled_from(NAMES),
        how=st.sampled_from(["cut", "zeros", "noise", "byte"]),
        seed=st.integers(0, 2**32),
        step=st.integers(0, 4),
    )
    def damage(name, how, seed, step):
        workdir = tmp_path_factory.mktemp("run")
        leave(workdir)
        path = workdir / name
        before = path.read_bytes()
        path.write_bytes(damaged(before, how, random.Random(seed)))
        with mock.patch.object(provenance, "git_state", lambda _: None):  # which takes most of the time
            take_up(workdir, step)
        found[f"{name} {how}"] += 1

    damage()
    assert found.total() == tries(60)
    happens = "set aside with a warning; what can be read is kept, and the run goes on"
    fault = "a file beside the checkpoints is cut, zeros, noise or has another byte"
    record("side_files", fault, happens, found.total(), found)


@pytest.mark.thorough
def test_a_run_with_all_of_them_damaged_ends_with_the_same_weights(tmp_path):
    config = Config()
    config.data.name, config.data.train_limit = "digits", 64
    config.model.family, config.model.blocks, config.model.width = "chain", (1,), 0.25
    config.train.batch_size, config.train.duration, config.train.telemetry_every = 8, "4 steps", "1 steps"
    config.checkpoint.every = "2 steps"
    result = loop.train(config, tmp_path, mesh=make_mesh(1))
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    write_rollback(tmp_path, Diverged("loss is nan", 3, (3, 3)), 2, 0.5)
    for i, path in enumerate(sorted(tmp_path / name for name in (*NAMES, "skipped_images.json"))):
        path.write_bytes(random.Random(i).randbytes(20))
    again = loop.train(config, tmp_path, mesh=make_mesh(1))
    assert again["sha256"] == result["sha256"] and len(read_metrics(tmp_path)) == 3
    assert len(list(tmp_path.glob("*.damaged"))) == 5  # a failure is forgotten anyway


@pytest.mark.parametrize("content", [b"", b"3", b"null", b'{"step": "x"}', b"\xff", b"[" * 100_000])
def test_what_is_damaged_is_set_aside_under_a_name_of_its_own(tmp_path, caplog, content):
    path = tmp_path / "result.json"
    for n in range(2):
        path.write_bytes(content)
        assert read_json(path, records.is_result) is None and path.exists()
        assert read_json(path, records.is_result, aside=True) is None
        aside = "result.json.damaged" + (f".{n}" if n else "")
        assert (tmp_path / aside).read_bytes() == content and not path.exists()
        assert f"{path} is damaged" in caplog.text and f"set aside as {aside}" in caplog.text
    assert read_json(path, records.is_result) is None  # not there: nothing to say


def test_lines_that_can_be_read_are_kept(tmp_path, caplog):
    leave(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"step": 2, "split": "tr\xe4in"}\n' + lines[2] + lines[3][:9])
    original = path.read_bytes()
    Records(tmp_path, 4, step=3, boards=()).close()
    assert path.read_bytes() == lines[0] + lines[2]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == original
    assert "damaged lines" in caplog.text


def test_a_line_cut_short_by_a_kill_is_no_damage(tmp_path, caplog):
    leave(tmp_path)
    for name, cut in (("metrics.jsonl", '{"step": 5, "ep'), ("telemetry.csv", "5,a,0.1")):
        with (tmp_path / name).open("a") as file:
            file.write(cut)
    Records(tmp_path, 4, step=4, boards=()).close()
    telemetry.forget_rows_after(tmp_path, 4)
    assert not list(tmp_path.glob("*.damaged")) and not caplog.text
    assert len(telemetry.read(tmp_path)) == 8 and len(read_metrics(tmp_path)) == 4


def test_a_lock_that_says_nonsense_is_nobodys(tmp_path):
    for content in (b"3", b"{}", b"\xff", b'{"host": 1}'):
        (tmp_path / lock.FILE).write_bytes(content)
        with lock.holding(tmp_path):
            pass


def test_a_file_is_on_disk_before_it_takes_the_place_of_another(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.readlink(f"/proc/self/fd/{file}")))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("replace") or replace(*paths))
    write_json(tmp_path / "a.json", {})
    assert [path.rsplit("/")[-1].split(".")[-2:] for path in done] == [
        ["a", "json"],
        ["replace"],
        [tmp_path.name],
    ]
    with Records(tmp_path, 4, boards=()) as out:
        done.clear()
        out.write(1, {"loss": 1.0}, "train")
        assert done == [] and out.flush() and done == [str(tmp_path / records.METRICS_FILE)]


def test_json_has_no_nan(tmp_path):
    found = records.to_json(
        {"a": np.float32("nan"), "b": [math.inf, {"c": np.array([1.0, -math.inf])}], 3: (1,)}
    )
    assert json.loads(found, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, {"c": [1.0, None]}],
        "3": [1],
    }
