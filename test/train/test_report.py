"""TensorBoard: what a resumed run writes replaces what is later, and a full disk costs entries."""

import io
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter

from fpt_ros.train.report import Reporter

MEASURES = (
    "nll/no_poke", "nll/one_poke", "epe_px/one_poke", "epe_px/one_poke_moving", "grad_norm"
)  # fmt: skip


@pytest.fixture(autouse=True)
def _files_in_order(monkeypatch):
    """TensorBoard orders files by second and by this number, as text."""
    counter = event_file_writer.AtomicCounter(0)
    monkeypatch.setattr(event_file_writer, "_global_uid", counter)


def report(folder, first, last, loss):
    """A run that begins after step `first`."""
    reporter = Reporter(folder, 1)
    with reporter.progress_bar(first):
        for step in range(first + 1, last + 1):
            reporter.step(step, 0.5, 4, {"loss": loss, **dict.fromkeys(MEASURES, 0.0)}, 0)


def losses(folder):
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_a_resumed_run_does_not_double_back(tmp_path):
    report(tmp_path, 0, 5, loss=1.0)
    report(tmp_path, 3, 6, loss=2.0)
    assert losses(tmp_path) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


def test_log_lines_go_into_the_file_though_the_rest_goes_to_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Reporter(tmp_path, 1).progress_bar(0):
        print("a line", file=sys.stderr)
    assert sys.stderr.getvalue() == "a line\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_costs_entries_not_the_run(tmp_path, monkeypatch, caplog):
    def full(self, data):
        raise OSError(28, "No space left on device")

    write = RecordWriter.write
    monkeypatch.setattr("fpt_ros.train.report.draw_views", lambda *_: np.zeros((4, 4, 3), np.uint8))
    reporter = Reporter(tmp_path, 1)
    with reporter.progress_bar(0):
        for step in range(1, 6):
            monkeypatch.setattr(RecordWriter, "write", full if step in (2, 3) else write)
            if step == 4:  # it is not tried again before the next validation
                assert len(list((tmp_path / "tensorboard").iterdir())) == 1
                reporter.validation(step, {}, None, None, None)
            reporter.step(step, 0.5, 4, {"loss": 1.0, **dict.fromkeys(MEASURES, 0.0)}, 0)
            reporter._record(lambda writer: writer.flush())
    assert "TensorBoard entries not written ([Errno 28] No space left on device)" in caplog.text
    assert [step for step, _ in losses(tmp_path)] == [1, 4, 5]
