"""Fine-tuning in a process of its own, for a program that has other things to do meanwhile.

    python -m fpt_ros.train.child

Reads one line of JSON from standard input: the settings of `FineTuneConfig`, `niceness`, and
`promote`, which is not to train when it turns out that nothing can be promoted. Writes lines of
JSON to standard output: `{"progress": ...}` while it runs, at last `{"outcome": ...}` or
`{"error": "reason"}`. Logs go to standard error. When its input ends, because the parent has closed
it or has ended in whatever way, it stops: training leaves a checkpoint, everything else is dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

CHECKPOINT_S = 30.0
"""How long to stop may take: a large network has much to write."""
_MIN_INTERVAL_S = 0.2  # between two reports of progress


def main() -> int:
    """Run one fine-tuning; 0 when its outcome has been written, 1 after an error."""
    # Nothing but our lines may get between the lines.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = json.loads(sys.stdin.readline())
    os.nice(int(settings.pop("niceness")))
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        _write(out, outcome=_run(settings, out))
    except Exception as error:
        from fpt_ros.core.errors import FptError

        if not isinstance(error, FptError | OSError):
            logging.exception("a defect")
        reason = str(error) if isinstance(error, FptError) else f"{type(error).__name__}: {error}"
        _write(out, error=reason)
        return 1
    return 0


def _run(settings: dict[str, Any], out: TextIO) -> dict[str, Any]:
    from fpt_ros.train.finetune import FineTuning
    from fpt_ros.train.finetune_config import FineTuneConfig
    from fpt_ros.train.progress import Progress

    for name in ("out", "data", "base", "rehearsal"):
        if settings.get(name) is not None:
            settings[name] = _path(settings[name])
    settings["bag"] = tuple(map(_path, settings.get("bag", ())))
    settings["topics"] = tuple(settings.get("topics", ()))
    promote = settings.pop("promote")
    latest: dict[str, Any] = {"at_s": 0.0, "phase": ""}

    def tell(progress: Progress) -> None:
        now_s = time.monotonic()
        if progress.phase == latest["phase"] and now_s - latest["at_s"] < _MIN_INTERVAL_S:
            return
        latest.update(at_s=now_s, phase=progress.phase)
        _write(out, progress=asdict(progress))

    outcome = FineTuning(FineTuneConfig(**settings), tell).run(only_to_promote=promote)
    return {
        "checkpoint": str(outcome.checkpoint),
        "report": str(outcome.report),
        "base_sha256": outcome.base_sha256,
        "promoted": outcome.verdict.promoted,
        "verdict": outcome.verdict.sentence(),
        "measures": outcome.measures,
    }


def _path(name: str) -> Path:
    # Unlike the method of Path, this leaves a ~user that is not known for us to name as no file.
    return Path(os.path.expanduser(name))


def _write(out: TextIO, **line: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, and we shall be soon
        out.write(json.dumps(line) + "\n")


def _stop_with_parent() -> None:
    """Wait for the end of the input, then stop as if asked by SIGTERM; insist after a while."""
    # Not through sys.stdin: its lock would be held for ever in the loader processes forked from us.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CHECKPOINT_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
