"""What `fpt train` shows of a run, told to a fine-tuning as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fpt_ros.train.progress import Tracker
from fpt_ros.train.report import Reporter


class TellingReporter(Reporter):
    """Also tells a tracker, and keeps validations in a file beside the checkpoints."""

    def __init__(self, folder: Path, every_steps: int, tracker: Tracker) -> None:
        super().__init__(folder, every_steps)
        self._history = folder / "history.jsonl"
        self._tracker = tracker
        self._share = 0.0

    def step(
        self, step: int, progress: float, views: int, measures: dict[str, float], skipped: int
    ) -> None:
        """Show, log and tell a step."""
        super().step(step, progress, views, measures, skipped)
        self._share = progress
        self._tracker.advance(progress, loss=measures["loss"])

    def validation(self, step: int, measured: dict[str, float], *drawn: Any) -> None:
        """Show, log, keep and tell a validation."""
        super().validation(step, measured, *drawn)
        with self._history.open("a") as file:
            file.write(json.dumps({"step": step, **measured}) + "\n")
        self._tracker.advance(self._share, measures=measured)

    def history(self) -> list[dict[str, float]]:
        """Validations by step; a resumed run may have repeated some."""
        if not self._history.exists():
            return []
        rows = (json.loads(line) for line in self._history.read_text().splitlines())
        return [row for _, row in sorted({row["step"]: row for row in rows}.items())]
