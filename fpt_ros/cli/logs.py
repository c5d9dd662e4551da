"""What long commands tell on the way."""

from __future__ import annotations

import logging
import os
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log lines with their time; a progress bar lets them pass above it."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(message)s", handlers=[_Stderr()]
    )


def _leave_bar() -> None:
    """Let a forked process, such as a loader worker, write past the bar that is its parent's.

    The bar's stand-ins draw, and wait for a lock that another thread of the parent may have held.
    """
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


os.register_at_fork(after_in_child=_leave_bar)


class _Stderr(logging.Handler):
    """Standard error as it is at the time, for which a bar puts in itself while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # as in all handlers: what cannot be told must not stop the work
            self.handleError(record)
