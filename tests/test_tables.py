"""Markdown tables hold any text: read back by the rules of GitHub's tables, every cell is what was put in."""

import html
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet.runs.provenance import origin_lines
from resnet.runs.tables import code, csv_table, markdown_table

ROOT = Path(__file__).parents[1]


def cells_of(line: str) -> list[str]:
    """The cells of a row as GitHub reads it: cut at bars that no backslash escapes."""
    cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)
    assert cells[0] == "" and cells[-1] == ""
    return [cell.strip().replace("\\|", "|") for cell in cells[1:-1]]


TEXT = st.text(st.sampled_from("ab <>|\\\n\r\u2028'\"&;()^$*_") | st.characters(codec="utf-8"), max_size=12)


@pytest.mark.thorough
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_a_row_stays_a_row_whatever_is_in_it(rows):
    head, rule, *lines = markdown_table(rows, ("a|b", "c"), disable_numparse=True).split("\n")
    assert len(lines) == len(rows) and cells_of(head) == ["a|b", "c"] and set(rule) <= set("|-")
    assert all(len(cells_of(line)) == 2 for line in lines)
    assert not any("<" in line for line in lines if "`" not in line)


def test_a_command_with_a_regular_expression_is_one_cell():
    text = "train --config.freeze='^(stem|stage1)/' <a>\nb"
    *_, line = markdown_table([(text, 1.5)], ("command", "x")).split("\n")
    assert [html.unescape(cell) for cell in cells_of(line)] == [text.replace("\n", " "), "1.5"]
    *_, line = markdown_table([{"command": f"`{text}`"}]).split("\n")
    assert cells_of(line) == [f"`{text}`".replace("\n", " ")]  # in code, < is itself
    *_, line = markdown_table([{"|a|": 1e-9, "b": None}], floatfmt=".4g").split("\n")
    assert cells_of(line) == ["1e-09", ""]


def test_code_holds_backticks_and_line_breaks():
    assert code("a\nb") == "`a b`" and code("a`b``c") == "```a`b``c```" and code("`a") == "`` `a ``"
    session = {"command": "train --x='`'\n- y", "git": None, "devices": {}, "versions": {}}
    assert origin_lines([session])[0] == "- Command: ``train --x='`' - y``"


def test_a_row_of_an_older_file_lacks_a_column():
    assert csv_table([{"a": 1, "c": 2}, {"a": 3, "b": 4, "c": 5}]) == "a,b,c\n1,,2\n3,4,5\n"
    assert csv_table([]) == ""


def test_every_markdown_table_is_made_by_the_one_function():
    for path in [*ROOT.glob("resnet/**/*.py"), *ROOT.glob("scripts/**/*.py")]:
        if path.name != "tables.py":
            text = path.read_text()
            made = [line for line in text.splitlines() if "tablefmt" in line]
            assert all("markdown_table(" in line for line in made), path
            assert '"|---' not in text and '"---|' not in text, path
