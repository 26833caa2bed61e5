"""What was measured as a file: JSON in the format of pytest-benchmark, which its tools read, or a page with plots."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from itertools import groupby
from typing import Any, Final

from needle_core.benchmark.measure import Row, busyness
from needle_core.diagnosis.environment import facts

FORMAT: Final = "5.1.0"  # of pytest-benchmark, whose format has not changed since
COLOURS: Final = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
WIDTH: Final = 560
BAND: Final = 18


def as_json(rows: Sequence[Row], devices: Sequence[str]) -> dict[str, Any]:
    """All times in seconds, a benchmark for each row and device; `extra_info` has the comparison with the first device."""
    found = [_benchmark(row, device, devices[0]) for row in rows for device in devices if row.seconds.get(device)]
    machine = {
        "node": "",
        "processor": platform.processor(),
        "machine": platform.machine(),
        "python_implementation": platform.python_implementation(),
        "python_version": platform.python_version(),
        "system": platform.system(),
        "release": platform.release(),
        "cpu": {"brand_raw": platform.processor() or platform.machine()},
        **facts(),
    }
    return {
        "machine_info": machine,
        "commit_info": {},
        "benchmarks": found,
        "datetime": datetime.now(UTC).isoformat(),
        "version": FORMAT,
    }


def _benchmark(row: Row, device: str, base: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"first_run": row.first.get(device)}
    if device != base:
        verdict = row.verdict(device, base)
        extra |= {"speed": verdict.speed, "interval": [verdict.low, verdict.high], "verdict": str(verdict), "against": base}
    return {
        "group": f"{row.group}: {row.name}",
        "name": f"{row.name}[{device}]",
        "fullname": f"{row.group}::{row.name}[{device}]",
        "params": {"device": device},
        "param": device,
        "extra_info": extra,
        "options": {"disable_gc": False, "timer": "perf_counter", "min_rounds": len(row.seconds[device]), "warmup": True},
        "stats": _statistics(row.seconds[device], row.runs[device]),
    }


def _statistics(seconds: list[float], runs: int) -> dict[str, Any]:
    mean, spread = statistics.fmean(seconds), statistics.stdev(seconds)
    q1, median, q3 = statistics.quantiles(seconds, method="inclusive")
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    near, far = sum(abs(s - mean) > spread for s in seconds), sum(not low <= s <= high for s in seconds)
    return {
        "min": min(seconds), "max": max(seconds), "mean": mean, "stddev": spread, "rounds": len(seconds), "iterations": runs,
        "median": median, "iqr": q3 - q1, "q1": q1, "q3": q3, "total": sum(seconds), "ops": 1 / mean, "data": seconds,
        "stddev_outliers": near, "iqr_outliers": far, "outliers": f"{near};{far}",
        "ld15iqr": min(s for s in seconds if s >= low), "hd15iqr": max(s for s in seconds if s <= high),
    }  # fmt: skip


# -- the page ---------------------------------------------------------------------------------------------------------------


def as_page(rows: Sequence[Row], devices: Sequence[str]) -> str:
    """A page that needs nothing else: a table and a plot for each group, each dot one turn."""
    known = "".join(f"<li>{escape(f'{k} {v}')}</li>" for k, v in facts().items())
    sections = [
        f"<h2>{escape(group)}</h2>{_table(found, devices)}{''.join(_plot(row, devices) for row in found if row.seconds)}"
        for group, found in ((g, list(r)) for g, r in groupby(rows, lambda row: row.group))
    ]
    legend = "".join(
        f'<li><span style="color:{COLOURS[i % len(COLOURS)]}">&#9632;</span> {escape(d)}</li>' for i, d in enumerate(devices)
    )
    explained = (
        f"Speed: how many times as fast as {escape(devices[0])}, the median of turns, and the interval that holds it in 95 of "
        "100 cases. A bar ends at the median of the times; each dot is one turn."
    )
    if busy := busyness():
        explained += f" {busy[0].upper()}{busy[1:]}."
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    head = f"{_HEAD}<h1>Devices compared</h1><p>{when}</p><ul>{known}</ul><p>{explained}</p><ul>{legend}</ul>"
    return f"{head}{''.join(sections)}</body></html>\n"


def _table(rows: Sequence[Row], devices: Sequence[str]) -> str:
    heads = ["", *(f"{d} ms" for d in devices), *(f"speed of {d}" for d in devices[1:])]
    lines = ["<tr>" + "".join(f"<th>{escape(h)}</th>" for h in heads) + "</tr>"]
    for row in rows:
        cells = [row.name, *(times(row, d) for d in devices), *(" ".join(compared(row, d, devices[0])) for d in devices[1:])]
        lines.append("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _plot(row: Row, devices: Sequence[str]) -> str:
    """The times of all turns on a line for each device, from 0 on."""
    longest = max(max(s) for s in row.seconds.values())
    marks = []
    for i, device in enumerate(devices):
        if not row.seconds.get(device):
            continue
        colour, y = COLOURS[i % len(COLOURS)], i * BAND + BAND / 2
        length = statistics.median(row.seconds[device]) / longest * WIDTH
        marks.append(f'<rect x="0" y="{y - 5}" width="{length:.1f}" height="10" fill="{colour}" opacity="0.35"/>')
        marks += [f'<circle cx="{s / longest * WIDTH:.1f}" cy="{y}" r="2.5" fill="{colour}"/>' for s in row.seconds[device]]
    size = f'width="{WIDTH + 8}" height="{len(devices) * BAND}"'
    caption = f"{escape(row.name)}, to {longest * 1e3:.4g} ms"
    return f"<figure><figcaption>{caption}</figcaption><svg {size}>{''.join(marks)}</svg></figure>"


def times(row: Row, device: str) -> str:
    """The median of a device's times in ms, or why there is none."""
    if row.seconds.get(device):
        return f"{statistics.median(row.seconds[device]) * 1e3:.4f}"
    return "-" if device not in row.trouble else "failed"


def compared(row: Row, device: str, base: str) -> tuple[str, str]:
    """How many times as fast as `base` a device is, with the interval; and the verdict."""
    if not row.seconds.get(device) or not row.seconds.get(base):
        return "", ""
    verdict = row.verdict(device, base)
    return f"{verdict.speed:.2f} [{verdict.low:.2f}, {verdict.high:.2f}]", str(verdict)


_HEAD: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Devices compared</title><style>
body { font-family: sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse } td, th { padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child { text-align: left } figure { margin: 0.8em 0 } figcaption { font-size: 90% }
ul { list-style: none; padding: 0 }
</style></head><body>"""
