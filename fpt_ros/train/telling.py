"""What `fpt train` shows of a run, told to a fine-tuning as well."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpt_ros.data.tarfiles import when_complete
from fpt_ros.train.progress import Tracker
from fpt_ros.train.report import Reporter
from fpt_ros.train.state import try_to_write


class TellingReporter(Reporter):
    """Also tells a tracker, and keeps validations in a file beside the checkpoints."""

    def __init__(self, folder: Path, every_steps: int, tracker: Tracker) -> None:
        super().__init__(folder, every_steps)
        self._history = folder / "history.jsonl"
        self._tracker = tracker
        self._share = 0.0

    @contextlib.contextmanager
    def progress_bar(self, steps_done: int) -> Iterator[None]:
        """Show the bar. What a killed run measured at later steps never was, and is dropped."""
        rows = self.history()
        kept = [row for row in rows if row["step"] <= steps_done]
        if len(kept) < len(rows):
            try_to_write(str(self._history), lambda: self._replace(kept))
        with super().progress_bar(steps_done):
            yield

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
        try_to_write(str(self._history), lambda: self._keep({"step": step, **measured}))
        self._tracker.advance(self._share, measures=measured)

    def history(self) -> list[dict[str, float]]:
        """Validations by step; a resumed run may have repeated some.

        What is no line of JSON, as a full disk or a killed run leaves it, is passed over.
        """
        if not self._history.exists():
            return []
        rows = {}
        for line in self._history.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                rows[row["step"]] = row
        return [row for _, row in sorted(rows.items())]

    def _replace(self, rows: list[dict[str, float]]) -> None:
        with when_complete(self._history) as file:
            file.write("\n".join(map(json.dumps, rows)).encode())

    def _keep(self, row: dict[str, float]) -> None:
        with self._history.open("a") as file:
            # The line break comes first, so that half a line does not spoil the next one.
            file.write("\n" + json.dumps(row))
