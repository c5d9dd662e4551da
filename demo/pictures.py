"""The demonstration's video and stills, drawn from what was recorded."""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from demo.asker import MAPS
from demo.recording import Answer, Recording
from demo.script import How, Pokes, Question
from fpt_ros import draw
from fpt_ros.convert import mixture_from_msg, points_from_msg
from fpt_ros.msg import MotionDistribution

Picture = NDArray[np.uint8]

PANEL_SIZE_PX = (640, 480)
LAST_FRAME_S = 1.0  # how long the video shows its last frame
LONGEST_ARROW = 0.2  # the brightest colour, relative to the side of what the model saw
TOP_UNCERTAINTY = 0.1  # likewise
MODES_PER_SIDE = 8  # of the grid; modes are drawn for those of its points that move
MOVES = 0.02  # a point that is expected to move further than this does move, likewise
UNCERTAINTY, MASK, SCORE = MAPS


def save_video(path: Path, recording: Recording, script: Sequence[Question]) -> int:
    """Write an H.264 video of all answers to standing plans, at their pace; return how many."""
    plans = {question.id: _only(question) for question in script if question.how is How.PLAN}
    shown = [
        answer
        for answer in recording.motions
        if answer.message.id in plans and answer.is_ok and answer.stamp_ns in recording.images
    ]
    if not shown:
        return 0
    height, width = _even(_video_panels(recording, shown[0], plans[shown[0].message.id])).shape[:2]
    milliseconds = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=30, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = milliseconds
        start_ns = shown[0].stamp_ns
        # A new plan is answered on an image that was answered already: its latest answer counts.
        latest = {(answer.stamp_ns - start_ns) // 1_000_000: answer for answer in shown}
        # The last frame once more, so that it is seen.
        latest[max(latest) + round(LAST_FRAME_S * 1000)] = shown[-1]
        for elapsed_ms, answer in sorted(latest.items()):
            picture = _even(_video_panels(recording, answer, plans[answer.message.id]))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = elapsed_ms, milliseconds
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return len(shown)


def save_stills(folder: Path, recording: Recording, script: Sequence[Question]) -> list[Path]:
    """Write one PNG for each answered question; return their paths."""
    folder.mkdir()
    paths = []
    for number, question in enumerate(script, 1):
        good = [
            answer
            for answer in recording.answers[question.id]
            if answer.is_ok and answer.stamp_ns in recording.images
        ]
        if question.how is How.PLAN:
            complete = [
                answer
                for answer in good
                if all(answer.stamp_ns in recording.maps[topic] for topic in MAPS)
            ]
            picture = _plan_sheet(recording, complete[-1], _only(question)) if complete else None
        else:
            picture = _candidates_sheet(recording, good[0], question) if good else None
        if picture is not None:
            name = re.sub(r"\W+", "_", question.id).strip("_")
            paths.append(folder / f"{number:02d}_{name}.png")
            cv2.imwrite(str(paths[-1]), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return paths


def _video_panels(recording: Recording, answer: Answer, pokes: Pokes) -> Picture:
    message = answer.message
    rgb = recording.rgb(answer.stamp_ns)
    deviation = _map_over_image(message, mixture_from_msg(message)[0].std().numpy())
    return draw.sheet(
        {
            message.id: _letterboxed(_expected(rgb, message, 0, pokes)),
            "uncertainty": _letterboxed(
                draw.draw_pokes(draw.draw_uncertainty(rgb, deviation, _top_px(message)), pokes)
            ),
        }
    )


def _plan_sheet(recording: Recording, answer: Answer, pokes: Pokes) -> Picture:
    message = answer.message
    rgb = recording.rgb(answer.stamp_ns)
    mask = recording.map(MASK, answer.stamp_ns)
    deviation = recording.map(UNCERTAINTY, answer.stamp_ns)
    return draw.sheet(
        {
            f"{message.id}: expected motion": _expected(rgb, message, 0, pokes),
            "what may happen to some points: modes": draw.draw_pokes(_modes(rgb, message), pokes),
            "uncertainty": draw.draw_pokes(
                draw.draw_uncertainty(rgb, deviation, _top_px(message)), pokes
            ),
            "part that moves": draw.draw_pokes(draw.draw_parts(rgb, mask), pokes),
        }
    )


def _candidates_sheet(recording: Recording, answer: Answer, question: Question) -> Picture:
    rgb = recording.rgb(answer.stamp_ns)
    return draw.sheet(
        {
            name: _expected(rgb, answer.message, index, pokes)
            for index, (name, pokes) in enumerate(question.candidates.items())
        }
    )


def _expected(rgb: Picture, message: MotionDistribution, candidate: int, pokes: Pokes) -> Picture:
    return draw.overview(
        rgb,
        pokes=pokes,
        points_px=points_from_msg(message),
        displacements_px=mixture_from_msg(message)[candidate].mean().numpy(),
        roi=(message.roi.x_offset, message.roi.y_offset, message.roi.width),
        longest_px=LONGEST_ARROW * message.roi.width,
    )


def _modes(rgb: Picture, message: MotionDistribution) -> Picture:
    n = math.isqrt(message.num_points)
    step = max(1, n // MODES_PER_SIDE)
    chosen = np.arange(n * n).reshape(n, n)[step // 2 :: step, step // 2 :: step].ravel()
    mixture = mixture_from_msg(message)[0]
    lengths_px = mixture.mean()[chosen].norm(dim=-1).numpy()
    chosen = chosen[lengths_px > MOVES * message.roi.width]
    return draw.draw_modes(
        rgb,
        points_from_msg(message)[chosen],
        mixture.weights.numpy()[chosen],
        mixture.means.numpy()[chosen],
        mixture.covariances.numpy()[chosen],
    )


def _map_over_image(
    message: MotionDistribution, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Spread values on the grid over the image, NaN where the model did not see."""
    n = math.isqrt(message.num_points)
    roi = message.roi
    full = np.full((message.image_height, message.image_width), np.nan, np.float32)
    full[roi.y_offset :, roi.x_offset :][: roi.height, : roi.width] = cv2.resize(
        values.reshape(n, n), (roi.width, roi.height), interpolation=cv2.INTER_LINEAR
    )
    return full


def _top_px(message: MotionDistribution) -> float:
    return TOP_UNCERTAINTY * message.roi.width


def _letterboxed(picture: Picture) -> Picture:
    """Centred on black: all pictures of a video are of one size."""
    width, height = PANEL_SIZE_PX
    panel = np.zeros((height, width, 3), np.uint8)
    y, x = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    panel[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return panel


def _even(picture: Picture) -> Picture:
    """Without an odd last row or column, which H.264 cannot store."""
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]


def _only(question: Question) -> Pokes:
    (pokes,) = question.candidates.values()
    return pokes
