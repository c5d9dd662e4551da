"""What fine-tuning was worth: report.md, report.json, a plot, and a video of what was held out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fpt_ros import draw
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.samples import cell_centres
from fpt_ros.evaluate.metrics import FEWEST_TO_RESAMPLE
from fpt_ros.evaluate.report import cell, defined, summarise
from fpt_ros.train.compare import AFTER, BEFORE, Record, TestSet, paired_change
from fpt_ros.train.gate import FEWEST_BLOCKS, MAX_COVERAGE_LOSS, POKES, Verdict

matplotlib.use("Agg")
import matplotlib.pyplot as plt

log = logging.getLogger(__name__)

MEASURES = {
    "epe_moving_px": "EPE moving, px",
    "epe_all_px": "EPE all, px",
    "nll": "NLL, nats",
    "nll_moving": "NLL moving, nats",
    "iou_mask": "IoU of the mask",
    "iou_flow": "IoU by flow",
    "coverage_90": "coverage of 90 % region",
    "coverage_90_likely": "coverage of 90 %, where motion is likely",
    "std_error_correlation": "corr. deviation and error",
}
_VIDEO_HZ = 4
_VIDEO_FRAMES = 40
_PANEL_PX = 384


def save(
    out: Path,
    verdict: Verdict,
    facts: Mapping[str, Any],
    records: Mapping[str, list[Record]],
    history: list[dict[str, float]],
) -> str:
    """Write report.md, report.json and report.png into `out`; returns the Markdown.

    `records` by data set, BEFORE and AFTER and baselines in each; `history` one row of validation
    measures, with `step`, for each validation.
    """
    parts = ["# Fine-tuning", f"**{verdict.sentence().capitalize()}.**", ""]
    parts += [f"* {name}: {value}" for name, value in facts.items()]
    parts.append(
        "* to be promoted, error over moving points and NLL must fall at one and at five pokes, "
        "with intervals of the change that do not reach zero (of fewer than "
        f"{FEWEST_BLOCKS} scenes or blocks, in each of them); the share of all points, and of "
        f"those likely to move, in their 90 % regions may be {100 * MAX_COVERAGE_LOSS:.0f} points "
        "farther from 90 % than before; the error on the synthetic test may rise by the percentage "
        "allowed"
    )
    parts.append(
        "* means with 95 % intervals over scenes or, in recordings, blocks of time (bootstrap; of "
        f"fewer than {FEWEST_TO_RESAMPLE}, jackknife and Student's t); of one block there is no "
        "interval; px of a 448 px picture; "
        "moving: truth above 1 % of the side; first poke: the largest flow, the others random; IoU "
        "over samples with a static camera; change: mean of the differences of pairs"
    )
    for name, rows in records.items():
        n_samples = len({row["key"] for row in rows})
        n_scenes = len({row["scene"] for row in rows})
        noun = "scene or block" if n_scenes == 1 else "scenes or blocks"
        parts.append(f"\n## {name}: {n_samples} samples of {n_scenes} {noun}")
        for side in (BEFORE, AFTER):
            keys = {r["key"] for r in rows if r["method"] == side and not math.isfinite(r["nll"])}
            if keys:
                parts.append(
                    f"\n**{side}** predicts what is no number in {len(keys)} samples, which are "
                    "left out of its rows but count in the verdict."
                )
        for pokes in POKES:
            noun = "poke" if pokes == 1 else "pokes"
            parts += [f"\n### {pokes} {noun}\n", _table(rows, pokes)]
    parts.append("\n![Before and after, and the course of training](report.png)")
    text = "\n".join(parts) + "\n"
    (out / "report.md").write_text(text)
    document = {
        "promoted": verdict.promoted,
        "reasons": verdict.reasons,
        "facts": facts,
        "history": [{k: defined(v) for k, v in row.items()} for row in history],
        "records": {
            name: [{k: defined(v) for k, v in row.items()} for row in rows]
            for name, rows in records.items()
        },
    }
    (out / "report.json").write_text(json.dumps(document, default=str, indent=1))
    _plot(out / "report.png", records, history)
    return text


def _table(rows: list[Record], pokes: int) -> str:
    summary = summarise([row for row in rows if row["pokes"] == pokes])
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m not in (BEFORE, AFTER)]
    methods += [BEFORE, AFTER]
    lines = [["method", *MEASURES.values()], ["---"] * (1 + len(MEASURES))]
    for method in methods:
        cells = [cell(summary.get((pokes, method, measure))) for measure in MEASURES]
        lines.append([f"**{method}**" if method in (BEFORE, AFTER) else method, *cells])
    changes = [cell(paired_change(rows, pokes, measure), "+") for measure in MEASURES]
    lines.append(["change", *changes])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plot(path: Path, records: Mapping[str, list[Record]], history: list[dict[str, float]]) -> None:
    """Error over moving points of all methods, and validation in the course of training."""
    figure, axes = plt.subplots(1, len(records) + 1, figsize=(5 * (len(records) + 1), 4.2),
                                layout="constrained")  # fmt: skip
    for axis, (name, rows) in zip(axes, records.items(), strict=False):
        summary = summarise(rows)
        methods = list(dict.fromkeys(row["method"] for row in rows))
        for offset, pokes in enumerate(POKES):
            values = [summary.get((pokes, m, "epe_moving_px"), (np.nan,) * 3) for m in methods]
            mean, lower, upper = np.array(values).T
            place = np.arange(len(methods)) + 0.4 * (offset - 0.5)
            noun = "poke" if pokes == 1 else "pokes"
            axis.barh(place, mean, 0.36, xerr=[mean - lower, upper - mean], label=f"{pokes} {noun}",
                      error_kw={"lw": 1})  # fmt: skip
        axis.set_yticks(range(len(methods)), methods)
        axis.set(title=name, xlabel="EPE over moving points, px of 448")
        axis.legend(fontsize=8)
    last = axes[-1]
    steps = [row["step"] for row in history]
    for measure in ("nll/one_poke", "nll/one_poke_moving"):
        last.plot(steps, [row[measure] for row in history], marker="o", ms=3, label=measure)
    last.set(title="validation", xlabel="step", ylabel="nats")
    if history:
        last.legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def try_to_save_video(
    path: Path, test_set: TestSet, before: MotionPredictor, after: MotionPredictor
) -> bool:
    """Write an H.264 video of what is held out: truth, before and after.

    A run can do without it: where it cannot be written, the log says why.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        log.warning("no video, because the Python module %s is missing", error.name)
        return False
    try:
        _save_video(path, test_set, before, after)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        log.warning("no video: %s", error)
        path.unlink(missing_ok=True)
        return False
    return True


def _save_video(
    path: Path, test_set: TestSet, before: MotionPredictor, after: MotionPredictor
) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=_VIDEO_HZ, options={"crf": "23"})
        n_frames = 0
        for picture in _pictures(test_set, before, after):
            even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            if not n_frames:
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts, frame.time_base = n_frames, Fraction(1, _VIDEO_HZ)
            container.mux(stream.encode(frame))
            n_frames += 1
        if n_frames:
            container.mux(stream.encode(None))


def _pictures(
    test_set: TestSet, before: MotionPredictor, after: MotionPredictor
) -> Iterator[np.ndarray]:
    """What really moved and what each model expects of a poke on the longest motion."""
    shown = TestSet(test_set.index, min(test_set.n_views, _VIDEO_FRAMES))
    for sample in shown.samples():
        rgb, enlarged_by = draw.upscaled(sample.image, _PANEL_PX)
        known = sample.valid.ravel()
        if not known.any():
            continue
        points = cell_centres(len(sample.flow))[known]
        truth = sample.flow.reshape(-1, 2)[known]
        poke = _longest(points, truth)
        side_px = rgb.shape[0]
        panels = {"what really moved": truth * side_px}
        for name, predictor in ((BEFORE, before), (AFTER, after)):
            predictor.set_image(sample.image)
            scale = sample.image.shape[0]
            motion = predictor.predict(poke * scale, points * scale, sample.camera_static)
            panels[name] = motion.mixture.mean().numpy() * enlarged_by
        yield draw.sheet(
            {
                name: draw.overview(
                    rgb,
                    pokes=poke * side_px,
                    points_px=points * side_px,
                    displacements_px=displacements,
                    longest_px=0.3 * side_px,
                    enlarged_by=enlarged_by,
                )
                for name, displacements in panels.items()
            },
            columns=3,
        )


def _longest(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The poke [1, 4] on the longest motion, unit-square units."""
    index = int(np.linalg.norm(truth, axis=-1).argmax())
    return np.concatenate([points[index], truth[index]])[None].astype(np.float32)
