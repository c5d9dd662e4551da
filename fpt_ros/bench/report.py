"""From timings to JSON, a Markdown table and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fpt_ros.bench.timing import Timings


class Peaks(NamedTuple):
    """The most that the machine was seen to do."""

    flops: float  # per second, in the precision of the engine
    fp32_flops: float
    bytes: float  # per second


class Row(NamedTuple):
    """A line of the table; what was not measured is NaN."""

    case: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    calls: int
    alone_ms: float  # median, had nothing else run
    plain_ms: float  # likewise
    ratio: float
    target: float
    answers_per_s: float
    memory_mb: float
    plain_memory_mb: float
    gflop: float
    moved_mb: float
    of_arithmetic: float  # share of the peak, at the fastest call
    of_traffic: float


def row(timings: Timings, peaks: Peaks) -> Row:
    """Everything about one case."""
    case, fastest_s = timings.case, timings.fastest_s
    p50_s, p95_s, p99_s = (timings.percentile_s(level) for level in (50, 95, 99))
    return Row(
        case.name,
        1e3 * p50_s,
        1e3 * p95_s,
        1e3 * p99_s,
        len(timings.calls),
        1e3 * timings.alone_s,
        1e3 * timings.plain_s,
        timings.ratio,
        math.nan if case.target is None else case.target,
        case.answers / p50_s if case.answers else math.nan,
        timings.memory_bytes / 1e6,
        timings.plain_memory_bytes / 1e6 if case.plain else math.nan,
        case.flops / 1e9,
        case.bytes_moved / 1e6,
        case.flops / fastest_s / peaks.flops,
        case.bytes_moved / fastest_s / peaks.bytes,
    )


def markdown(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """Facts on top, then the table."""
    lines = [f"* {name}: {value}" for name, value in facts.items()]
    header = ["case", "p50 / p95 / p99, ms", "alone, ms", "plain alone, ms", "ratio", "target",
              "answers/s", "memory (plain), MB", "GFLOP", "of peak"]  # fmt: skip
    lines += ["", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for each in rows:
        limit = "memory" if each.of_traffic > each.of_arithmetic else "arithmetic"
        share = max(each.of_traffic, each.of_arithmetic)
        cells = [
            each.case,
            " / ".join(_number(ms) for ms in (each.p50_ms, each.p95_ms, each.p99_ms)),
            _number(each.alone_ms),
            _number(each.plain_ms),
            _number(each.ratio, "x"),
            _number(each.target, "x"),
            _number(each.answers_per_s),
            f"{_number(each.memory_mb)} ({_number(each.plain_memory_mb)})",
            _number(each.gflop),
            f"{100 * share:.0f} % of {limit}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def table(lines: Sequence[dict[str, float | str]]) -> str:
    """Lines with the same columns as Markdown."""
    rows = [list(lines[0]), ["---"] * len(lines[0])]
    rows += [
        [each if isinstance(each, str) else _number(each) for each in line.values()]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _number(value: float, unit: str = "") -> str:
    """Three digits, or a dash."""
    if math.isnan(value):
        return "-"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + unit


def save(folder: Path, rows: Sequence[Row], facts: dict[str, Any], peaks: Peaks) -> None:
    """Write bench.json, bench.md and bench.png. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "facts": facts,
        "peaks": peaks._asdict(),
        "cases": [
            {name: None if value != value else value for name, value in each._asdict().items()}
            for each in rows
        ],
    }
    (folder / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "bench.md").write_text(markdown(rows, facts))
    plot(rows, folder / "bench.png")


def plot(rows: Sequence[Row], path: Path) -> None:
    """Ratios with their targets, and shares of what the machine can do."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(11, 1.5 + 0.35 * len(rows)), layout="constrained"
    )
    y = range(len(rows))
    left.barh(y, [each.ratio for each in rows], color="tab:blue")
    left.plot([each.target for each in rows], y, "k|", ms=14, mew=2, label="target")
    left.axvline(1, color="grey", lw=0.8)
    left.set(xlabel="times as fast as the plain implementation", xscale="log")
    left.set_yticks(y, [each.case for each in rows], fontsize=8)
    left.invert_yaxis()
    left.legend(fontsize=8)
    for offset, name, values in (
        (-0.2, "arithmetic", [each.of_arithmetic for each in rows]),
        (0.2, "memory traffic", [each.of_traffic for each in rows]),
    ):
        right.barh([i + offset for i in y], [100 * v for v in values], 0.4, label=name)
    right.set(xlabel="% of the machine's measured peak")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
