"""The page on the architecture says what the code says, and every relative link leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.*")])
TEXTS = [page for page in PAGES if page.suffix in (".md", ".py")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from scripts import architecture

    return architecture


def test_the_page_is_up_to_date(script):
    page = script.PAGE.read_text()
    assert script.renewed(page, script.imports_of_rooms()) == page, "run python scripts/architecture.py"
    assert len(script.LINK.findall(page)) > 30


def test_a_name_that_is_gone_is_an_error(script):
    page = script.PAGE.read_text() + "[`Step.gone`](../resnet/training/step.py#L1)"
    with pytest.raises(script.InputError, match=r"step.py defines no Step.gone; correct the link"):
        script.renewed(page, script.imports_of_rooms())


def test_layers_follow_the_imports(script):
    rooms = {"top": {"left", "right", "low"}, "left": {"right"}, "right": {"left", "low"}, "low": set()}
    assert script.layers(rooms) == [[("top",)], [("left", "right")], [("low",)]]
    assert script.arrows(rooms) == [(("left", "right"), ("low",)), (("top",), ("left", "right"))]


def headings(page):
    """The anchors that a page offers, as GitHub names them."""
    text = CODE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)
    return {*plain, *re.findall(r'<a id="([^"]+)"', text)}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), link


def test_the_glossary_is_short():
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Words")[1].split("\n## ")[0]
    words = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert 20 < len(words) <= 30
    assert len({word.split(" | ")[0] for word in words}) == len(words)
