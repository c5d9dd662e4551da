"""A fine-tuning that runs as a process of its own (`fpt_ros.train.child`), seen from the node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fpt_ros.train.child import CHECKPOINT_S

_SHOWN_LINES = 3


class TrainingProcess:
    """Started by the constructor; ends with this process, however that ends.

    on_progress: told of each progress, as keyword arguments of train.progress.Progress.
    on_end: told once, when the process has ended: its outcome, or `{"error": reason}`.
    Both are called on a thread of their own.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        log: Path,
        threads: int,
        on_progress: Callable[[dict[str, Any]], object],
        on_end: Callable[[dict[str, Any]], object],
    ) -> None:
        self._log = log
        self._on_progress = on_progress
        self._on_end = on_end
        environment = {
            # Below normal: a hint to NVIDIA's MPS, where it runs. Without it a GPU knows no
            # priorities between processes.
            "CUDA_MPS_CLIENT_PRIORITY": "1",
            # Threads that wait for one another leave their core to the predictor. Where they spin
            # for one that it keeps from running, training takes twice as long.
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
        }
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        with log.open("ab") as errors:
            # A session of its own: Ctrl-C reaches the node, which then stops this process.
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "fpt_ros.train.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(json.dumps(settings).encode() + b"\n")
            self._popen.stdin.flush()
        threading.Thread(target=self._read, daemon=True).start()

    def stop(self) -> None:
        """Ask for a checkpoint and the end; insist after a while. Returns at once.

        To ask again changes nothing.
        """
        assert self._popen.stdin is not None
        # The end of its input, which comes but once, as a signal would not.
        with suppress(BrokenPipeError):
            self._popen.stdin.close()
        timer = threading.Timer(CHECKPOINT_S, self._kill)
        timer.daemon = True
        timer.start()

    def _kill(self) -> None:
        """End the process and its helpers at once."""
        if self._popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def _read(self) -> None:
        end = {"error": "what the training process says cannot be followed"}
        try:
            end = self._followed()
        finally:
            self._kill()  # has ended, if it could be followed
            self._on_end(end)

    def _followed(self) -> dict[str, Any]:
        assert self._popen.stdout is not None
        end: dict[str, Any] = {}
        for line in self._popen.stdout:
            try:
                content = json.loads(line)
            except ValueError:  # cut off: the process was killed
                continue
            if "progress" in content:
                self._on_progress(content["progress"])
            else:
                end = content
        code = self._popen.wait()
        return end or {"error": self._ended(code)}

    def _ended(self, code: int) -> str:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
        try:
            with self._log.open(errors="replace") as file:
                last = " / ".join(line.strip() for line in deque(file, _SHOWN_LINES))
        except OSError as error:
            last = str(error)
        return f"the training process {how}; see {self._log}: {last}"
