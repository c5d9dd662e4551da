"""What the node says of itself on /diagnostics: numbers, and a level with reasons. No rclpy."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from fpt_ros.nodes.jobs import Statistics, Status

# Requests answered so, in the time between two reports, make a warning.
_TROUBLES = (
    Status.NO_IMAGE,
    Status.STALE_IMAGE,
    Status.BAD_REQUEST,
    Status.DEADLINE_MISSED,
    Status.OVER_CAPACITY,
)


@dataclass(frozen=True)
class Condition:
    """The state of the node apart from the worker's counts."""

    state: str  # of the life cycle
    model: Mapping[str, str] = field(default_factory=dict)  # what to say of the model
    errors: Collection[str] = ()  # reasons for an ERROR
    warnings: Collection[str] = ()  # reasons for a WARN
    images_lost: int = 0  # on the way from the camera, as the middleware counts
    more: Mapping[str, str] = field(default_factory=dict)  # what parts of the node have to say


def status_message(
    name: str, condition: Condition, now: Statistics, before: Statistics, elapsed_s: float
) -> DiagnosticStatus:
    """Summarise the counts `now` and what changed since `before`, `elapsed_s` ago."""
    errors, warnings = list(condition.errors), list(condition.warnings)
    if now.model_errors > before.model_errors:
        errors.append("the model failed")
    for label, count in (
        ("unusable images", now.images_bad - before.images_bad),
        ("images older than max_image_age_s", now.images_stale - before.images_stale),
        *(
            (f"requests answered {status.name}", now.answers[status] - before.answers[status])
            for status in _TROUBLES
        ),
    ):
        if count > 0:
            warnings.append(f"{count} {label}")
    level, summary = DiagnosticStatus.OK, condition.state
    if errors or warnings:
        level = DiagnosticStatus.ERROR if errors else DiagnosticStatus.WARN
        summary = "; ".join(errors + warnings)

    def rate(count: int) -> str:
        return f"{count / elapsed_s:.1f}"

    values = {
        "state": condition.state,
        **condition.model,
        "images in [Hz]": rate(now.images_received - before.images_received),
        "images processed [Hz]": rate(now.images_processed - before.images_processed),
        "requests answered [Hz]": rate(now.answers.total() - before.answers.total()),
        "age p50 [ms]": _percentile_ms(now.age_s, 50),
        "age p95 [ms]": _percentile_ms(now.age_s, 95),
        "encode p50 [ms]": _percentile_ms(now.encode_s, 50),
        "encode p95 [ms]": _percentile_ms(now.encode_s, 95),
        "query p50 [ms]": _percentile_ms(now.query_s, 50),
        "query p95 [ms]": _percentile_ms(now.query_s, 95),
        "requests waiting": str(now.waiting),
        "images received": str(now.images_received),
        "images processed": str(now.images_processed),
        "images replaced by newer ones": str(now.images_replaced),
        "images skipped for max_rate_hz": str(now.images_skipped),
        "images stale": str(now.images_stale),
        "images unusable": str(now.images_bad),
        "images the model failed on": str(now.images_failed),
        "images lost before arrival": str(condition.images_lost),
        **{f"answers {status.name}": str(now.answers[status]) for status in Status},
        **condition.more,
    }
    return DiagnosticStatus(
        level=level,
        name=name,
        message=summary,
        hardware_id=condition.model.get("device", ""),
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )


def _percentile_ms(durations_s: Collection[float], percent: float) -> str:
    if not durations_s:
        return "nan"
    return f"{1e3 * float(np.percentile(list(durations_s), percent)):.1f}"
