"""The report of a visit as Markdown: `as_markdown` of what visit.py has found. Nothing is measured here."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

GOAL_OF_COMPILATION = 10.0
"""Seconds for the first call of a step."""
CLAIM = "simulated: no claim of speed"

Found = dict[str, Any]


def as_markdown(found: Found) -> str:
    """Sections for what was found; what did not run, and why, stands in one of its own."""
    stages = {stage["name"]: stage for stage in found["stages"]}
    title = f"# A visit to {found['facts']['device']}"
    lines = [title, "", *([f"**{CLAIM}.** Sizes are tiny, and times those of the host.", ""] if found["simulated"] else [])]
    lines += [f"{found['seconds']:.0f} s of {found['budget_s']:.0f} s were used.", ""]
    lines += _stages(found["stages"])
    lines += _absent(stages)
    records = {name: stage["records"] for name, stage in stages.items()}
    lines += _memory(records.get("bandwidth", []), found["simulated"])
    lines += _compilation(records.get("compilation", []))
    lines += _benchmark(records.get("benchmark", []))
    lines += ["## Versions", "", *_table(["", ""], found["facts"].items())]
    lines += _outputs(found["stages"])
    return "\n".join(lines) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    cells = [" | ".join(" ".join(str(c).split()).replace("|", "\\|") for c in row) for row in rows]
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {row} |" for row in cells), ""]


def _stages(stages: Sequence[Found]) -> list[str]:
    rows = [(s["name"], s["status"], s["why"], f"{s['seconds']:.0f}", _last_line(s)) for s in stages]
    return ["## Stages", "", *_table(["stage", "", "why", "s", "its last words"], rows)]


def _last_line(stage: Found) -> str:
    return str(stage["tail"]).splitlines()[-1][:120] if stage["tail"] else ""


def _absent(stages: dict[str, Found]) -> list[str]:
    """What did not run, or not to its end."""
    lines = [f"- {name}: {s['why']}" for name, s in stages.items() if s["status"] in ("not run", "out of time")]
    for name in ("compilation", "benchmark"):
        for r in stages.get(name, {"records": []})["records"]:
            if r["kind"] == "peer" and r["why"]:
                lines.append(f"- peer {r['package']} in {r['python']}: {r['why']}")
            elif r["kind"] == "trouble":
                lines.append(f"- {name}, {r['workload']}, {r['who']}: {' '.join(r['why'].split())}")
    return ["## What did not run, and why", "", *(lines or ["Everything ran."]), ""]


def _memory(records: Sequence[Found], is_simulated: bool) -> list[str]:
    lines: list[str] = []
    for r in records:
        if r["kind"] == "launches":
            costs = [(what, f"{value:.2f}") for what, value in r["microseconds"].items()]
            lines += ["## Launches of an empty kernel", "", *_table(["", "µs"], costs)]
        elif r["kind"] == "copy":
            lines += [
                "## Memory",
                "",
                f"A copy within the device: {r['bytes_a_second'] / 1e12:.3f} TB/s, read and written.",
                "",
            ]
    rows = [
        (
            r["template"],
            r["dtype"],
            f"{r['bytes'] / 1e6:.1f}",
            f"{statistics.median(r['seconds']) * 1e6:.1f}",
            f"{_spread(r['seconds']):.1%}",
            f"{r['of_copy']:.1%}",
            "" if is_simulated or r["of_copy"] >= r["goal"] else f"below {r['goal']:.0%}",
        )
        for r in records
        if r["kind"] == "template" and "of_copy" in r
    ]
    return lines + (_table(["template", "dtype", "MB", "µs", "spread", "of the copy", ""], rows) if rows else [])


def _spread(times: Sequence[float]) -> float:
    """The range of the middle half of times, of their median."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / statistics.median(times)


def _compilation(records: Sequence[Found]) -> list[str]:
    rows = [
        (r["workload"], f"{r['seconds']:.2f}", "" if r["seconds"] < GOAL_OF_COMPILATION else f"above {GOAL_OF_COMPILATION:.0f}")
        for r in records
        if r["kind"] == "first"
    ]
    return ["## Compilation: the first call, with nothing cached", "", *_table(["step", "s", ""], rows)] if rows else []


def _benchmark(records: Sequence[Found]) -> list[str]:
    """Medians and spreads, and how many times as long as ours a peer's step takes: the median of the ratios of turns."""
    times: dict[str, dict[str, list[float]]] = {}
    for r in records:
        if r["kind"] == "times":
            times.setdefault(r["workload"], {})[r["who"]] = r["seconds"]
    if not times:
        return []
    peers = [who for who in dict.fromkeys(who for by in times.values() for who in by) if who != "needle"]
    rows = []
    for workload, by in times.items():
        ours = by.get("needle")
        row = [workload, _told(ours)]
        for who in peers:
            ratio = ""
            if ours and who in by:
                ratio = f": {statistics.median(b / a for a, b in zip(ours, by[who], strict=False)):.2f}"
            row.append(_told(by.get(who)) + ratio)
        rows.append(row)
    heads = ["step", "needle", *(f"{who}: times ours" for who in peers)]
    told = (
        "Milliseconds of a step, the median of turns ± half the range of the middle half. Steps named `_bf16` compute "
        "products in bfloat16 by autocast, the others all in float32."
    )
    losses = [(r["workload"], r["who"], f"{r['loss']:.4f}", f"{r['seconds']:.1f}") for r in records if r["kind"] == "first"]
    lines = ["## Training steps", "", told, "", *_table(heads, rows)]
    versions = [f"- {r['package']} {r['version']}" for r in records if r["kind"] == "peer" and not r["why"]]
    return [*lines, *versions, "", *_table(["step", "", "first loss", "first call, s"], losses)]


def _told(times: Sequence[float] | None) -> str:
    if not times:
        return "-"
    median = statistics.median(times)
    return f"{median * 1e3:.3f} ± {median * _spread(times) * 500:.3f}"


def _outputs(stages: Sequence[Found]) -> list[str]:
    lines: list[str] = []
    for stage in stages:
        if stage["tail"] and stage["status"] != "passed":
            lines += [f"## The end of what `{stage['name']}` wrote", "", "```", stage["tail"], "```", ""]
    return lines
