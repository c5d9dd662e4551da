"""The demonstration's table: what went in, what came out, how old it was."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

from demo.recording import Recording
from demo.script import Question
from fpt_ros.msg import MotionDistribution

_STATUS_NAMES = {
    getattr(MotionDistribution, name): name
    for name in (
        "OK",
        "NO_IMAGE",
        "STALE_IMAGE",
        "BAD_REQUEST",
        "DEADLINE_MISSED",
        "MODEL_ERROR",
        "OVER_CAPACITY",
    )
}


def tables(recording: Recording, script: Sequence[Question], images_sent: int) -> Group:
    """Return the tables to print.

    images_sent: how many images the player published.
    """
    return Group(_stream_table(recording, images_sent), _question_table(recording, script))


def _stream_table(recording: Recording, images_sent: int) -> Table:
    table = Table(title="camera → node → answers", box=SIMPLE, show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    counted = recording.diagnostics
    ages_s = [answer.age_s for answer in recording.motions if answer.is_ok]
    ages_ms = 1e3 * np.array(ages_s or [np.nan])
    p50, p95, worst = np.percentile(ages_ms, [50, 95, 100])
    span_s = (max(recording.images) - min(recording.images)) * 1e-9 if recording.images else np.nan
    processed = int(counted.get("images processed", 0))
    unusable = sum(
        int(counted.get(f"images {why}", 0)) for why in ("stale", "unusable", "the model failed on")
    )
    for name, value in (
        ("images published", str(images_sent)),
        ("images that reached the node", counted.get("images received", "?")),
        ("images processed", f"{processed} ({processed / span_s:.1f} per second)"),
        ("dropped: a newer one came first", counted.get("images replaced by newer ones", "?")),
        *([("dropped: unusable or too old", str(unusable))] if unusable else []),
        ("dropped: lost on the way", counted.get("images lost before arrival", "?")),
        ("age, stamp to publication: p50", f"{p50:.0f} ms"),
        ("age, stamp to publication: p95", f"{p95:.0f} ms"),
        ("age, stamp to publication: worst", f"{worst:.0f} ms"),
        ("encoding an image: p50", f"{counted.get('encode p50 [ms]', '?')} ms"),
        ("answering a question: p50", f"{counted.get('query p50 [ms]', '?')} ms"),
    ):
        table.add_row(name, value)
    return table


def _question_table(recording: Recording, script: Sequence[Question]) -> Table:
    table = Table(title="questions", box=SIMPLE)
    for heading in ("question", "as"):
        table.add_column(heading, no_wrap=True)
    for heading in ("choices", "answers", "first"):
        table.add_column(heading, justify="right")
    table.add_column("status")
    for question in script:
        answers = recording.answers[question.id]
        delays_ms = [
            (answer.published_ns - recording.asked_ns[question.id]) * 1e-6 for answer in answers
        ]
        counts = Counter(_STATUS_NAMES[answer.message.status] for answer in answers)
        table.add_row(
            question.id,
            question.how.value,
            str(len(question.candidates)),
            str(len(answers)),
            f"{min(delays_ms):.0f} ms" if delays_ms else "-",
            _joined(counts) or "[red]no answer[/]",
        )
    return table


def _joined(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {name}" for name, count in counts.items())
