"""Shows a net: resnet describe --config=digits

A table by stem, block and head: shape of what leaves it, shortcut, parameters and multiply-accumulates
for one image. --blocks shows every block, where stages are summed up otherwise. --compare=FILE lists
the fields in which another config differs. --zoo lists the published nets with our counts and theirs.
Data that are not at hand are described by --image_shape and --classes.
Prints the totals as one JSON object.
"""

import dataclasses
import itertools
from pathlib import Path

from absl import flags

from resnet.cli import images
from resnet.cli import options as cli


def define() -> None:
    """Defines the flags of the command."""
    cli.define_config()
    cli.define_path("compare", None, "Another recipe, by name or file, whose differences are listed.")
    flags.DEFINE_bool("blocks", False, "One row for each block instead of each stage.")
    flags.DEFINE_bool("zoo", False, "The published nets, with our counts and theirs.")
    images.define()


def main(overrides: list[str]) -> dict:
    """One call of resnet.models.counts.count_parts, or one for each net of the zoo."""
    if cli.FLAGS.zoo:
        cli.refuse("--zoo", "config", "compare", "blocks", "image_shape", "classes", overrides=overrides)
        return show_zoo()
    if cli.FLAGS.compare:
        cli.refuse("--compare", "blocks", "image_shape", "classes")
    config = cli.chosen_config(overrides)
    if cli.FLAGS.compare:
        return show_differences(config, cli.FLAGS.compare)
    from resnet.models.counts import count_parts, totals

    image_shape, num_outputs = images.shapes(config.data)
    parts = count_parts(config.model, num_outputs, image_shape)
    parameters, macs = totals(parts)
    rows = [dataclasses.astuple(part) for part in parts] if cli.FLAGS.blocks else stages(parts)
    total = ("total", (), "", parameters, macs)
    show(("part", "output", "shortcut", "parameters", "MACs"), [*rows, total])
    return {"parameters": parameters, "macs": macs, "image_shape": image_shape, "outputs": num_outputs}


def stages(parts: tuple) -> list[tuple]:
    """Rows of the table with a stage's blocks summed, those of one shortcut together."""
    rows = []
    for (stage, shortcut), group in itertools.groupby(
        parts, key=lambda part: (part.name.split("/")[0], part.shortcut)
    ):
        blocks = list(group)
        name = stage
        if "/" in blocks[0].name:
            numbers = [block.name.removeprefix(f"{stage}/block") for block in blocks]
            name += f"/block{numbers[0]}" + (f" … {numbers[-1]}" if len(numbers) > 1 else "")
        counts = [sum(getattr(block, field) for block in blocks) for field in ("parameters", "macs")]
        rows.append((name, blocks[-1].shape, shortcut, *counts))
    return rows


def show(headers: tuple[str, ...], rows: list[tuple]) -> None:
    """Prints a table: counts with thousands set off, shapes as 8x8x16."""
    import tabulate

    def written(cell):
        if isinstance(cell, tuple):
            return "x".join(map(str, cell))
        return f"{cell:,}" if isinstance(cell, int) else cell

    sides = ["right" if isinstance(cell, int) else "left" for cell in rows[0]]
    cells = [[written(cell) for cell in row] for row in rows]
    print(tabulate.tabulate(cells, headers, colalign=sides, disable_numparse=True))


def show_differences(config, path: Path) -> dict:
    """The fields in which the config of --config and that of `path` differ."""
    from resnet.config import differences, load_config

    found = differences(config, load_config(path))
    rows = [(name, repr(ours), repr(theirs)) for name, ours, theirs in found]
    if rows:
        show(("field", str(cli.FLAGS.config), str(path)), rows)
    return {"differences": {name: [ours, theirs] for name, ours, theirs in found}}


def show_zoo() -> dict:
    """Every net of the zoo; a mismatch is marked."""
    from resnet.models.counts import count_parts, totals
    from resnet.models.zoo import ZOO

    rows, mismatches = [], []
    for name, net in ZOO.items():
        ours = totals(count_parts(net.config, net.num_outputs, net.image_shape))
        same = ours[0] == net.parameters and net.macs in (None, ours[1])
        mismatches += [] if same else [name]
        rows.append((name, *ours, net.parameters, net.macs or "", "" if same else "differs", net.source))
    headers = ("net", "parameters", "MACs", "published", "published MACs", "", "source")
    show(headers, rows)
    return {"nets": len(rows), "mismatches": mismatches}
