"""Draws the rooms of the code and renews the links of docs/architecture.md: python scripts/architecture.py

The picture and the table of rooms are made from the imports in resnet/ and scripts/. Links of the form
[`Class.method`](../file.py#L1) get the line on which the name is defined. With --check nothing is written,
and a page that is out of date is an error. Prints the numbers of rooms, links and changed files as one
JSON object.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cli
from absl import flags

from resnet.errors import InputError
from resnet.files import write_text

flags.DEFINE_bool("check", False, "Writes nothing; an error if the page is out of date.")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = PAGE.with_suffix(".png")
BEGIN, END = "<!-- rooms: written by scripts/architecture.py -->", "<!-- /rooms -->"
LINK = re.compile(r"\[`([\w.]+)`\]\((\.\./[\w/]+\.py)(?:#L\d+)?\)")
# Small modules beside the rooms, which every room may use: left out of the picture.
BASICS = ("__main__", "durations", "errors", "fields", "files", "paths", "processors", "recipes")
BOX = 1.6  # width of a room in the picture

Imports = Mapping[str, set[str]]


def main(overrides: list[str]) -> dict[str, Any]:
    """Brings page and picture up to date, or with --check raises InputError unless the page is."""
    cli.refuse_overrides(overrides, "no config is read here")
    rooms, old = imports_of_rooms(), PAGE.read_text("utf-8")
    new = renewed(old, rooms)
    if cli.FLAGS.check and new != old:
        raise InputError(f"{PAGE} is out of date; run python scripts/architecture.py")
    if not cli.FLAGS.check:
        write_text(PAGE, new)
        draw(rooms)
    return {"rooms": len(rooms), "links": len(LINK.findall(new)), "changed": new != old}


def room_of(module: str) -> str | None:
    """`models` for `resnet.models.grammar`; None for what belongs to no room."""
    parts = module.split(".")
    if parts[0] != "resnet" or len(parts) < 2 or parts[1] in BASICS:
        return None
    return parts[1]


def imports_of_rooms() -> Imports:
    """The rooms that each room imports, wherever in its files; `scripts` is a room too."""
    found: dict[str, set[str]] = {}
    for path in sorted([*(ROOT / "resnet").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        here = "scripts" if module.startswith("scripts.") else room_of(module)
        if here is None or here == "__init__":
            continue
        names = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        rooms = {room for name in names if (room := room_of(name))}
        rooms = {room for room in rooms if (ROOT / "resnet" / room).is_dir() or _is_file(room)}
        found.setdefault(here, set()).update(rooms - {here})
    return found


def _is_file(room: str) -> bool:
    return (ROOT / "resnet" / f"{room}.py").is_file()


def reached(rooms: Imports, start: str) -> set[str]:
    """The rooms that `start` imports, directly or through others."""
    found, waiting = set(), [start]
    while waiting:
        new = rooms[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def groups(rooms: Imports) -> list[tuple[str, ...]]:
    """Rooms that import each other, directly or through others, as one group; all others alone."""
    known = {room: reached(rooms, room) for room in rooms}
    return sorted({tuple(sorted({a} | {b for b in known[a] if a in known[b]})) for a in rooms})


def layers(rooms: Imports) -> list[list[tuple[str, ...]]]:
    """The groups from the top down: each lies one layer below the lowest that imports it."""
    known = {room: reached(rooms, room) for room in rooms}
    depths: dict[tuple[str, ...], int] = {}
    for group in sorted(groups(rooms), key=lambda group: -len(known[group[0]] - {*group})):
        above = [depth for other, depth in depths.items() if group[0] in known[other[0]]]
        depths[group] = max(above, default=-1) + 1
    return [[group for group in depths if depths[group] == level] for level in sorted(set(depths.values()))]


def arrows(rooms: Imports) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pairs (group, a group that it imports), without the pairs that follow from others."""
    known = {room: reached(rooms, room) for room in rooms}
    found = []
    for a in groups(rooms):
        below = [b for b in groups(rooms) if b != a and b[0] in known[a[0]]]
        found += [(a, b) for b in below if not any(b[0] in known[c[0]] for c in below if c != b)]
    return found


def renewed(text: str, rooms: Imports) -> str:
    """The page with the lines of its links, and its table of rooms, as the code has them."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    text = f"{head}{BEGIN}\n\n{table(rooms)}\n\n{END}{tail}"
    return LINK.sub(lambda match: f"[`{match[1]}`]({match[2]}#L{line_of(match[2], match[1])})", text)


def line_of(file: str, name: str) -> int:
    """The line of a file, relative to docs/, on which `name` or `Class.name` is defined; else InputError."""
    body: Iterable[ast.stmt] = ast.parse((PAGE.parent / file).read_text("utf-8")).body
    line = 0
    for part in name.split("."):
        nodes = [node for node in body if _defines(node, part)]
        if not nodes:
            raise InputError(f"{PAGE}: {file} defines no {name}; correct the link")
        line, body = nodes[0].lineno, getattr(nodes[0], "body", ())
    return line


def _defines(node: ast.stmt, name: str) -> bool:
    """Whether a statement is the function, class or assignment of that name."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    return getattr(node, "name", None) == name


def table(rooms: Imports) -> str:
    """The rooms from the top layer down: what each is, its modules, and the rooms that it imports."""
    from resnet.runs.tables import markdown_table

    rows = []
    order = [room for layer in layers(rooms) for group in layer for room in group]
    for room in order:
        folder = ROOT / ("scripts" if room == "scripts" else f"resnet/{room}")
        modules, source = [folder.with_suffix(".py")], folder.with_suffix(".py")
        if folder.is_dir():
            modules = [file for file in folder.rglob("*.py") if file.name != "__init__.py"]
            source = folder / "__init__.py"
        what = (ast.get_docstring(ast.parse(source.read_text("utf-8"))) or "").split("\n")[0]
        link = f"[{room}](../{(folder if folder.is_dir() else source).relative_to(ROOT)})"
        imported = ", ".join(other for other in order if other in rooms[room])
        rows.append((link, what, len(modules), imported))
    return markdown_table(rows, ("room", "what is in it", "modules", "imports"))


def draw(rooms: Imports) -> None:
    """Writes the picture: a box for each room, a frame around rooms that import each other, arrows down."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    levels, downwards = layers(rooms), arrows(rooms)
    figure, axes = plt.subplots(figsize=(8, len(levels)), layout="constrained")
    ends: dict[tuple[str, ...], tuple[float, float, float]] = {}
    for level, row in enumerate(levels):
        sizes = [BOX * len(group) for group in row]
        above = [ends[a][0] for a, b in downwards if b == row[0]]
        # A room alone in its layer lies below those that import it, so that no arrow crosses a box.
        centre = sum(above) / len(above) if above and len(row) == 1 else 0.0
        left = centre - (sum(sizes) + BOX * (len(row) - 1)) / 2
        for group, size in zip(row, sizes, strict=True):
            ends[group] = (left + size / 2, -level, 0.32 if len(group) > 1 else 0.22)
            _draw_group(axes, group, left, -level)
            left += size + BOX
    for a, b in downwards:
        (x, y, up), (to_x, to_y, down) = ends[a], ends[b]
        style = {"arrowstyle": "-|>", "color": "#0072B2", "shrinkA": 0, "shrinkB": 1}
        axes.annotate("", (to_x, to_y + down), (x, y - up), arrowprops=style)
    axes.set(xlim=(-2.5 * BOX, 2.5 * BOX), ylim=(0.5 - len(levels), 0.5))
    axes.set_axis_off()
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _draw_group(axes: Any, group: tuple[str, ...], left: float, y: float) -> None:
    """The boxes of a group side by side; several stand in a frame."""
    from matplotlib.patches import FancyBboxPatch

    def box(x: float, width: float, height: float, **style: Any) -> None:
        rounded = "round,pad=0,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch((x, y - height / 2), width, height, boxstyle=rounded, **style))

    if len(group) > 1:
        box(left, BOX * len(group), 0.64, facecolor="none", edgecolor="grey", linestyle="--")
    for i, room in enumerate(group):
        x = left + BOX * i
        box(x + 0.1, BOX - 0.2, 0.44, facecolor="#E8F1F8", edgecolor="#0072B2")
        axes.text(x + BOX / 2, y, room, ha="center", va="center", fontsize=12)


if __name__ == "__main__":
    cli.run(main)
