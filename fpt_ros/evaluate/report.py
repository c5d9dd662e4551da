"""From records to a report: JSON with everything, Markdown tables, plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.evaluate.baselines import NO_MOTION
from fpt_ros.evaluate.metrics import FEWEST_TO_RESAMPLE, PCK_THRESHOLDS_PX, mean_with_interval
from fpt_ros.evaluate.runner import MODEL

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Record = dict[str, Any]
Interval = tuple[float, float, float]  # mean, lower, upper
Summary = dict[tuple[int, str, str], Interval]  # by pokes, method, measure

COMPARED = {  # measures every method has
    "epe_moving_px": "EPE moving, px",
    "epe_all_px": "EPE all, px",
    "iou_flow": "IoU by flow",
}
PCK = {f"pck_{limit:g}px": f"PCK moving, {limit:g} px" for limit in PCK_THRESHOLDS_PX}
MODEL_ONLY = {
    "iou_kl": "IoU by KL",
    "iou_kl_half": "IoU, threshold halved",
    "iou_kl_double": "IoU, threshold doubled",
    "iou_mask": "IoU of the mask",
    "nll": "NLL, nats",
    "nll_moving": "NLL moving, nats",
    "std_error_correlation": "corr. deviation and error (mean)",
    "std_error_correlation_sample": "corr. (sample)",
    "std_error_correlation_top_mode": "corr. (most confident mode)",
    "coverage_50": "coverage of 50 % region",
    "coverage_90": "coverage of 90 % region",
    "coverage_50_likely": "coverage of 50 %, where motion is likely",
    "coverage_90_likely": "coverage of 90 %, where motion is likely",
    "mode_diversity_px": "mode diversity, moving, px",
    "mode_confidence": "mode confidence, moving",
    "top_mode_error_px": "error of most confident mode, moving, px",
    "best_mode_error_px": "error of best mode, moving, px",
    "joint_mean_epe_px": "joint samples: mean EPE moving, px",
    "joint_best_epe_px": "joint samples: best-of-K EPE moving, px",
    "joint_rank5_residual": "joint samples: rank-5 residual (0: rigid)",
}


def summarise(
    records: list[Record], measures: Iterable[str] = (*COMPARED, *PCK, *MODEL_ONLY)
) -> Summary:
    """Mean and 95 % interval over scenes of every measure, per poke count and method."""
    grouped: dict[tuple[int, str], list[Record]] = {}
    for record in records:
        grouped.setdefault((record["pokes"], record["method"]), []).append(record)
    summary: Summary = {}
    for (pokes, method), rows in grouped.items():
        scenes = np.array([row["scene"] for row in rows])
        for measure in measures:
            values = np.array([row.get(measure, np.nan) for row in rows], dtype=float)
            if np.isfinite(values).any():
                summary[pokes, method, measure] = mean_with_interval(values, scenes)
    return summary


def cell(value: Interval | None, sign: str = "") -> str:
    """A mean and its interval for a table; sign "+": also of positive numbers."""
    if value is None or not np.isfinite(value[0]):
        return "-"
    mean, lower, upper = value
    form = f"{sign}.{1 if abs(mean) >= 10 else 3 if abs(mean) < 1 else 2}f"
    interval = f" [{lower:{form}}, {upper:{form}}]" if np.isfinite(lower) else ""
    return f"{mean:{form}}{interval}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(title: str, records: list[Record], facts: dict[str, Any], summary: Summary) -> str:
    """The report as Markdown; `facts` (checkpoint, data, settings, command) are listed on top."""
    counts = sorted({record["pokes"] for record in records})
    methods = list(dict.fromkeys(record["method"] for record in records))
    n_scenes = len({record["scene"] for record in records})
    n_samples = len({record["key"] for record in records})
    n_joint = sum("joint_mean_epe_px" in record for record in records)
    parts = [f"# {title}", *(f"* {name}: {value}" for name, value in facts.items())]
    parts.append(
        f"* {n_samples} samples of {n_scenes} scenes; means with 95 % intervals over scenes "
        f"(bootstrap; of fewer than {FEWEST_TO_RESAMPLE}, jackknife and Student's t); px of a 448 "
        "px picture; moving: truth above 1 % of the side; first poke: the largest flow, the others "
        "random; IoU over samples with a static camera; likelihoods are densities per area of the "
        "picture; motion is likely where the model says so, with the probability that masks ask for"
    )
    parts.append(
        f"* joint samples: of {n_joint} samples, one a scene, with a static camera, at one poke, "
        "on moving points of the poked part"
    )
    for count in counts:
        noun = "poke" if count == 1 else "pokes"
        parts.append(f"\n## {count} {noun}")
        for measures in (COMPARED, PCK):
            rows = [
                [method, *(cell(summary.get((count, method, measure))) for measure in measures)]
                for method in methods
            ]
            parts += ["", _table(["method", *measures.values()], rows)]
    rows = [
        [label, *(cell(summary.get((count, MODEL, measure))) for count in counts)]
        for measure, label in MODEL_ONLY.items()
    ]
    parts += ["\n## The distribution\n", _table(["measure", *(f"{c} pokes" for c in counts)], rows)]
    at_one = [record for record in records if record["pokes"] == 1]
    if at_one:
        parts += ["\n## Model minus best baseline, one poke\n", _difference_table(at_one, summary)]
        parts += ["\n## By camera, one poke\n", _camera_table(at_one)]
        parts += ["\n## By family, one poke\n", _family_table(at_one)]
    return "\n".join(parts) + "\n"


def _difference_table(at_one: list[Record], summary: Summary) -> str:
    """Differences on the same samples, to the baseline that is best by that measure."""
    by_method: dict[str, dict[str, Record]] = {}
    for record in at_one:
        by_method.setdefault(record["method"], {})[record["key"]] = record
    own = by_method.pop(MODEL)
    scenes = np.array([record["scene"] for record in own.values()])
    rows = []
    for measure, theirs, best in (
        ("epe_moving_px", "epe_moving_px", min),
        ("iou_flow", "iou_flow", max),
        ("iou_kl", "iou_flow", max),
        ("iou_mask", "iou_flow", max),
    ):
        means = {m: summary[1, m, theirs][0] for m in by_method if (1, m, theirs) in summary}
        if means:
            rival = best(means, key=means.__getitem__)
            differences = [row[measure] - by_method[rival][key][theirs] for key, row in own.items()]
            value = mean_with_interval(np.array(differences), scenes)
            label = {**COMPARED, **MODEL_ONLY}[measure]
            rows.append([label, f"{rival}, {COMPARED[theirs]}", cell(value, "+")])
    return _table(["measure", "best baseline", "difference"], rows)


def _camera_table(at_one: list[Record]) -> str:
    """The model where the camera stands still, and where it moves."""
    rows = []
    for camera, static in (("static", True), ("moving", False)):
        chosen = [record for record in at_one if record["camera_static"] is static]
        own = summarise(chosen, ("epe_moving_px", "epe_all_px"))
        cells = [own.get((1, MODEL, measure)) for measure in ("epe_moving_px", "epe_all_px")]
        still = own.get((1, NO_MOTION, "epe_moving_px"))
        n = len({record["key"] for record in chosen})
        rows.append([camera, str(n), *map(cell, cells), cell(still)])
    header = ["camera", "samples", "EPE moving, px", "EPE all, px", f"{NO_MOTION}, EPE moving"]
    return _table(header, rows)


def _family_table(at_one: list[Record]) -> str:
    """The model beside the best baseline of each family."""
    measures = ("epe_moving_px", "epe_all_px", "iou_mask")
    rows = []
    for family in sorted({record["family"] for record in at_one}):
        own = summarise([r for r in at_one if r["family"] == family], measures)
        baselines = {method for _, method, _ in own} - {MODEL}
        best = min((own[1, method, "epe_moving_px"] for method in baselines), default=None)
        cells = [own.get((1, MODEL, measure)) for measure in measures]
        rows.append([family, *map(cell, cells), cell(best)])
    header = ["family", "EPE moving, px", "EPE all, px", "IoU of the mask",
              "best baseline, EPE moving"]  # fmt: skip
    return _table(header, rows)


def plot(summary: Summary, path: Path) -> None:
    """Error, part IoU, modes and calibration against the number of pokes."""
    counts = sorted({pokes for pokes, _, _ in summary})
    methods = list(dict.fromkeys(method for _, method, _ in summary))
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")

    def curve(axis, method: str, measure: str, **style) -> None:
        points = [(i, summary[c, method, measure]) for i, c in enumerate(counts)
                  if (c, method, measure) in summary]  # fmt: skip
        if points:
            x, values = zip(*points, strict=True)
            mean, lower, upper = np.array(values).T
            axis.errorbar(x, mean, [mean - lower, upper - mean], capsize=3, **style)

    for method in methods:
        bold = {"lw": 2.5, "color": "black"} if method == MODEL else {"lw": 1, "alpha": 0.8}
        curve(axes[0, 0], method, "epe_moving_px", label=method, **bold)
        curve(axes[0, 1], method, "iou_flow", label=f"{method}, by flow", **bold)
    curve(axes[0, 1], MODEL, "iou_kl", label="model, by KL", lw=2.5, color="tab:red")
    curve(axes[0, 1], MODEL, "iou_mask", label="model, mask", color="tab:red")
    for measure in ("mode_diversity_px", "top_mode_error_px", "best_mode_error_px"):
        curve(axes[1, 0], MODEL, measure, label=MODEL_ONLY[measure])
    for measure in ("coverage_50", "coverage_90", "mode_confidence", "std_error_correlation"):
        curve(axes[1, 1], MODEL, measure, label=MODEL_ONLY[measure])
    axes[0, 0].set(ylabel="EPE over moving points, px of 448", yscale="log")
    axes[0, 1].set(ylabel="moving-part IoU", ylim=(0, 1))
    axes[1, 0].set(ylabel="px of 448, moving points")
    axes[1, 1].set(ylim=(0, 1))
    for level in (0.5, 0.9):
        axes[1, 1].axhline(level, color="grey", lw=0.8, ls=":")
    for axis in axes.flat:
        axis.set_xticks(range(len(counts)), [str(c) for c in counts])
        axis.set_xlabel("pokes")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def defined(value: Any) -> Any:
    """None for a number that JSON cannot express."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(out: Path, title: str, records: list[Record], facts: dict[str, Any]) -> str:
    """Write report.md, report.json and report.png into folder `out`; returns the Markdown.

    What is not defined, NaN in the records or no interval of one scene, is null in the JSON.
    Raises InvalidInputError when there is no record.
    """
    if not records:
        raise InvalidInputError("nothing was measured: in none of the samples does anything move")
    out.mkdir(parents=True, exist_ok=True)
    summary = summarise(records)
    text = markdown(title, records, facts, summary)
    (out / "report.md").write_text(text)
    means = [
        {"pokes": pokes, "method": method, "measure": measure,
         "mean": mean, "lower": defined(lower), "upper": defined(upper)}
        for (pokes, method, measure), (mean, lower, upper) in summary.items()
    ]  # fmt: skip
    rows = [{name: defined(value) for name, value in record.items()} for record in records]
    document = {"facts": facts, "summary": means, "records": rows}
    (out / "report.json").write_text(json.dumps(document, default=str, indent=1))
    plot(summary, out / "report.png")
    return text
