"""The demonstration's other processes: started apart, watched, and always ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

SHOWN_LINES = 15


class ProcessFailed(Exception):
    """A process ended by itself when it should not have; the message holds its last lines."""


class Process:
    """A Python process whose output goes to a file; ended with the `with` block."""

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches this process alone, which then ends the others.
            self._popen = subprocess.Popen(
                [sys.executable, *arguments],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has_finished(self) -> bool:
        """Tell whether it ended well.

        Raises:
            ProcessFailed: it ended badly.
        """
        code = self._popen.poll()
        if code:
            raise ProcessFailed(self._described(f"ended with exit status {code}"))
        return code == 0

    def must_run(self) -> None:
        """Check that it still runs.

        Raises:
            ProcessFailed: it ended.
        """
        if self._popen.poll() is not None:
            raise ProcessFailed(self._described(f"ended with status {self._popen.returncode}"))

    def stop(self, patience_s: float = 10.0) -> None:
        """Interrupt it, as Ctrl-C does, and wait.

        Raises:
            ProcessFailed: it did not end well, or not in time.
        """
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGINT)
        try:
            self._popen.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(self._described(f"did not stop within {patience_s:g} s")) from None
        self.has_finished()

    def _described(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        return "\n".join([f"the {self.name} {what}; the end of {self._log}:", *lines])

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGTERM)
            try:
                self._popen.wait(3.0)
            except subprocess.TimeoutExpired:
                os.killpg(self._popen.pid, signal.SIGKILL)
                self._popen.wait()
