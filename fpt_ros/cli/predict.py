"""`fpt predict`: ask a model about a picture, without ROS."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fpt_ros.core.errors import InvalidInputError

if TYPE_CHECKING:
    import numpy as np

    from fpt_ros.core.motion import Motion, MovingParts
    from fpt_ros.core.parts import PartCriterion
    from fpt_ros.core.predictor import MotionPredictor

Numbers = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


def predict(
    image: tyro.conf.Positional[Path],
    poke: Numbers = (),
    at: Numbers = (),
    checkpoint: Path | None = None,
    out: Path = Path("prediction.png"),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    grid: int = 32,
    threshold_nats: float | None = None,
    least_probability: float | None = None,
    moving_camera: bool = False,
    device: str = "auto",
) -> None:
    """Predict what moves if points of a picture are poked; write a picture, and numbers as JSON.

    A poke is x,y,dx,dy in pixels: the point (x, y), x to the right and y down, is taken to
    (x + dx, y + dy) within the model's horizon. Several pokes happen together. Without a poke the
    answer is what the model expects to happen of itself.

    Examples:
      fpt predict kitchen.jpg --poke 320,240,60,0
      fpt predict kitchen.jpg --poke 320,240,60,0 --poke 200,180,0,0 --json answer.json
      fpt predict kitchen.jpg --at 400,250 --checkpoint runs/mine/last.safetensors

    Args:
        image: picture to ask about, any format that OpenCV reads
        poke: x,y,dx,dy in px; may be given several times; dx,dy = 0,0 holds a point where it is
        at: x,y in px; further points to list the possible displacements of
        checkpoint: weights; default: those that come with the package
        out: picture to write
        json_file: numbers to write
        grid: points per side at which the maps are computed
        threshold_nats: a part that moves is influenced more than that; default: 0.5 (the node's
            moving_part_threshold_nats)
        least_probability: and moves, by 1 % of what is seen, at least as likely; default: 0.4 (the
            node's moving_part_probability)
        moving_camera: the camera moves meanwhile (the node's camera_static: false)
        device: auto (a GPU if there is one), cpu, cuda or cuda:N
    """
    import cv2
    import numpy as np

    from fpt_ros.core.parts import DEFAULT_CRITERION
    from fpt_ros.core.predictor import MotionPredictor
    from fpt_ros.engines.choose import Wish
    from fpt_ros.weights import default_checkpoint

    pokes = np.array([_numbers(text, 4, "--poke x,y,dx,dy") for text in poke]).reshape(-1, 4)
    extra = np.array([_numbers(text, 2, "--at x,y") for text in at]).reshape(-1, 2)
    if not cv2.haveImageWriter(str(out)):
        raise InvalidInputError(f"cannot write {out}: give a file name that ends in .png or .jpg")
    rgb = _read(image)
    path = checkpoint or default_checkpoint()
    given = {"threshold_nats": threshold_nats, "least_probability": least_probability}
    criterion = replace(
        DEFAULT_CRITERION, **{name: value for name, value in given.items() if value is not None}
    )

    predictor = MotionPredictor.from_checkpoint(path, Wish(device=device).torch_device())
    started = time.perf_counter()
    predictor.set_image(rgb)
    encoded = time.perf_counter()
    static = not moving_camera
    motion = predictor.predict_grid(pokes, grid, static)
    parts = predictor.moving_parts(pokes, grid, criterion, camera_static=static)
    uncertainty_px = predictor.uncertainty(pokes, grid, static)
    points = np.concatenate([pokes[:, :2], extra])
    chosen = predictor.predict(pokes, points, static) if len(points) else None
    finished = time.perf_counter()

    answer: dict[str, Any] = {
        "status": "OK",
        "image": {"file": str(image), "width": rgb.shape[1], "height": rgb.shape[0]},
        "roi": dict(zip(("x", "y", "side"), motion.transform.roi, strict=True)),
        "model": {"file": str(path), "id": predictor.model_id},
        "horizon_s": predictor.horizon_s,
        "camera_static": static,
        "pokes": pokes.tolist(),
        "points": [] if chosen is None else _points(chosen),
        "grid": _summary(motion, parts, uncertainty_px, criterion),
        "encode_ms": round(1e3 * (encoded - started), 1),
        "predict_ms": round(1e3 * (finished - encoded), 1),
    }
    picture = _picture(rgb, pokes, predictor, motion, parts, uncertainty_px, chosen)
    out.write_bytes(cv2.imencode(out.suffix, picture[..., ::-1])[1].tobytes())
    if json_file is not None:
        json_file.write_text(json.dumps(answer, indent=2) + "\n")
    _report(answer)
    print(f"written: {out}" + (f", {json_file}" if json_file else ""))


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InvalidInputError(f"{form} takes {count} numbers with commas between, got {text!r}")
    return numbers


def _read(path: Path) -> np.ndarray:
    """An image file as uint8 RGB [H, W, 3]."""
    import cv2
    import numpy as np

    data = np.frombuffer(path.read_bytes(), np.uint8)
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if bgr is None:
        raise InvalidInputError(f"{path} is not an image that OpenCV can read")
    return np.asarray(bgr[..., ::-1], np.uint8)


def _points(motion: Motion) -> list[dict[str, Any]]:
    """Each point's distribution: moments, modes (the likeliest first) and all components."""
    from fpt_ros.core.motion import PointFlag

    mixture = motion.mixture
    mode_weights, mode_means = mixture.modes()
    rows = []
    for i, (x, y) in enumerate(motion.points_px.tolist()):
        row: dict[str, Any] = {"x": x, "y": y}
        row["flags"] = [flag.name for flag in PointFlag if motion.flags[i] & flag]
        if not row["flags"]:
            row["mean_px"] = mixture.mean()[i].tolist()
            row["std_px"] = mixture.std()[i].item()
            row["modes"] = [
                {"weight": weight, "mean_px": mean}
                for weight, mean in zip(
                    mode_weights[i].tolist(), mode_means[i].tolist(), strict=True
                )
                if weight > 0
            ]
            row["weights"] = mixture.weights[i].tolist()
            row["means_px"] = mixture.means[i].tolist()
            row["covariances_px2"] = mixture.covariances[i].tolist()
        rows.append(row)
    return rows


def _summary(
    motion: Motion, parts: MovingParts, uncertainty_px: np.ndarray, criterion: PartCriterion
) -> dict[str, Any]:
    """What the maps show, in a few numbers."""
    import numpy as np

    means_px = motion.mixture.mean().numpy()
    lengths_px = np.hypot(*means_px.T)
    furthest = int(np.argmax(lengths_px))
    seen = np.isfinite(parts.score)
    return {
        "points_per_side": round(len(lengths_px) ** 0.5),
        **asdict(criterion),
        "moving_share": float(parts.mask[seen].mean()),
        "largest_influence_nats": float(parts.score[seen].max()),
        "largest_mean_motion_px": float(lengths_px[furthest]),
        "largest_mean_motion_at": motion.points_px[furthest].tolist(),
        "median_uncertainty_px": float(np.median(uncertainty_px[seen])),
    }


def _picture(
    rgb: np.ndarray,
    pokes: np.ndarray,
    predictor: MotionPredictor,
    motion: Motion,
    parts: MovingParts,
    uncertainty_px: np.ndarray,
    chosen: Motion | None,
) -> np.ndarray:
    """The answer as a sheet of captioned panels."""
    import numpy as np

    from fpt_ros import draw

    large, scale = draw.upscaled(rgb)

    def enlarged(values: np.ndarray) -> np.ndarray:
        return np.repeat(np.repeat(values, scale, 0), scale, 1)

    horizon = f"in {predictor.horizon_s:.2g} s" if predictor.horizon_s else "horizon unknown"
    x, y, side = motion.transform.roi
    panels = {
        f"expected motion, {horizon}": draw.overview(
            large,
            pokes * scale,
            motion.points_px * scale,
            motion.mixture.mean().numpy() * scale,
            enlarged(parts.mask) if len(pokes) else None,
            (x * scale, y * scale, side * scale),
            enlarged_by=scale,
        )
    }
    if chosen is not None:
        mixture = chosen.mixture
        panels["possible motions (1 and 2 sigma of each mode)"] = draw.draw_modes(
            large,
            chosen.points_px * scale,
            mixture.weights,
            mixture.means * scale,
            mixture.covariances * scale**2,
        )
    panels["uncertainty (standard deviation)"] = draw.draw_uncertainty(
        large, enlarged(uncertainty_px)
    )
    if len(pokes):
        panels["influence of the pokes (KL divergence)"] = draw.draw_influence(
            large, enlarged(parts.score)
        )
    return draw.sheet(panels)


def _report(answer: dict[str, Any]) -> None:
    """The answer in a few lines of text."""
    model, image = answer["model"], answer["image"]
    horizon = f"{answer['horizon_s']:.2g} s" if answer["horizon_s"] else "an unknown time"
    print(
        f"{image['file']} {image['width']}x{image['height']}, model {Path(model['file']).name} "
        f"({model['id']}), displacements over {horizon}; "
        f"{answer['encode_ms']:.0f} + {answer['predict_ms']:.0f} ms"
    )
    for point in answer["points"]:
        name = f"point ({point['x']:g}, {point['y']:g})"
        if point["flags"]:
            print(f"{name}: no prediction, {', '.join(point['flags'])}")
            continue
        (dx, dy), std_px = point["mean_px"], point["std_px"]
        modes = ", ".join(
            f"{mode['weight']:.0%} ({mode['mean_px'][0]:+.1f}, {mode['mean_px'][1]:+.1f})"
            for mode in point["modes"]
            if mode["weight"] >= 0.005
        )
        print(f"{name}: mean ({dx:+.1f}, {dy:+.1f}) +- {std_px:.1f} px; modes {modes}")
    grid = answer["grid"]
    x, y = grid["largest_mean_motion_at"]
    print(
        f"grid of {grid['points_per_side']}: longest mean motion "
        f"{grid['largest_mean_motion_px']:.1f} px at ({x:.0f}, {y:.0f}), median uncertainty "
        f"{grid['median_uncertainty_px']:.1f} px"
    )
    if answer["pokes"]:
        print(
            f"moving part: {grid['moving_share']:.1%} of the view (influence above "
            f"{grid['threshold_nats']:g} nats, probability {grid['least_probability']:g} or more)"
        )
