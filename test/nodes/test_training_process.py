"""The process that fine-tunes, seen from the node; what it does is pretended."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time

import pytest

from fpt_ros.nodes import training_process

TIMEOUT_S = 60.0
_POPEN = subprocess.Popen
# Stops as training does: at a second signal at once, and what it would have written is lost.
_TRAINS = """
import signal, sys, time
from fpt_ros.train import child
def run(settings, out):
    asked = []
    def remember(number, frame):
        asked.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, remember)
    child._write(out, progress=settings)
    while not asked:
        time.sleep(0.01)
    time.sleep(0.3)
    return "written"
child._run = run
sys.exit(child.main())
"""


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Start a process with this code; it, what it told of its progress, and of its end."""
    processes = []

    def start(code):
        def popen(command, **options):
            return _POPEN([sys.executable, "-c", code], **options)

        progress, ends = queue.SimpleQueue(), queue.SimpleQueue()
        with monkeypatch.context() as patch:
            patch.setattr(training_process.subprocess, "Popen", popen)
            processes.append(
                training_process.TrainingProcess(
                    {"niceness": 0}, tmp_path / "log", 1, progress.put, ends.put
                )
            )
        return processes[-1], progress, ends

    yield start
    for process in processes:
        process._kill()


def test_to_stop_twice_is_to_stop_once(start):
    process, progress, ends = start(_TRAINS)
    progress.get(timeout=TIMEOUT_S)
    process.stop()
    time.sleep(0.1)  # it has been told and is not yet done
    process.stop()  # as the end of the node does after a cancelled goal
    assert ends.get(timeout=TIMEOUT_S) == {"outcome": "written"}


def test_the_end_is_told_also_if_nothing_is_known_of_it(start, tmp_path):
    process, progress, ends = start(_TRAINS)
    progress.get(timeout=TIMEOUT_S)
    (tmp_path / "log").unlink()
    os.kill(process._popen.pid, signal.SIGKILL)
    reason = ends.get(timeout=TIMEOUT_S)["error"]
    assert "was ended by signal 9" in reason
    assert "No such file" in reason


def test_what_cannot_be_followed_is_ended(start, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda error: None)
    process, _, ends = start("import time; print(1, flush=True); time.sleep(1000)")
    assert "cannot be followed" in ends.get(timeout=TIMEOUT_S)["error"]
    assert process._popen.wait(TIMEOUT_S) == -signal.SIGKILL
