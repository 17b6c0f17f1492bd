"""A plan as a table for people, and where it comes from."""

from typing import Any

from resnet.planning.targets import Target
from resnet.runs.provenance import this_session


def origin_of_plan(target: Target, command: str) -> dict[str, Any]:
    """Time, command, commit and versions of a plan, with the version of its compiler."""
    session = this_session(command)
    return session | {"versions": session["versions"] | dict([target.compiler()])}


def table(record: dict[str, Any]) -> str:
    """What Plan.record gives, in a page."""
    import tabulate

    if "memory" not in record:
        lines = [f"{record['target']}: does not fit: {record['reason']}"]
        return "\n".join(lines + [f"{name}: {value}" for name, value in _batch(record)])
    memory, times = record["memory"], record["seconds"]
    kinds = [(kind, f"{size / 1e6:,.1f} MB") for kind, size in memory.items()]
    fits = "fits" if record["fits"] else "does not fit"
    rows = [
        ("memory of a device", fits),
        *((f"  {kind}", size) for kind, size in kinds),
        *_batch(record),
        ("least time of a step", f"{1e3 * times[record['bound']]:.3f} ms, bound by {record['bound']}"),
        *((f"  by {name}", f"{1e3 * value:.3f} ms") for name, value in times.items()),
        ("images a second, at most", f"{record['images_per_second']:,.0f}"),
        (f"hours for {record['steps']:,} steps, at least", f"{record['hours']:.2f}"),
        ("kernels in a step", f"{record['kernels']:,}"),
        *_exchanges(record["collectives"]),
        *(("finding", line) for line in record["findings"]),
    ]
    devices = f"{record['devices']} device" + ("s" if record["devices"] > 1 else "")
    seeds = f", {record['seeds']} seeds" if record["seeds"] > 1 else ""
    head = f"{record['target']}: {devices}, batch {record['batch_size']}{seeds}; predicted, not measured"
    return f"{head}\n{tabulate.tabulate(rows, (), 'plain', disable_numparse=True)}"


def _batch(record: dict[str, Any]) -> list[tuple[str, str]]:
    if "largest_batch" not in record:
        return []
    return [("largest batch, extrapolated", str(record["largest_batch"] or "none"))]


def _exchanges(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (
            f"{each['kind']} of {each['of']}, {each['phase']}",
            f"{each['count']} of {each['bytes'] / 1e6:.3f} MB in all",
        )
        for each in found
    ]
