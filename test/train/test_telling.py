"""What a fine-tuning tells of itself: time left, history, video; and what it can do without."""

import av
import pytest

from fpt_ros.train import finetune_report, progress, telling
from fpt_ros.train.progress import PHASES, Tracker


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = {"s": 100.0}
    monkeypatch.setattr(progress.time, "monotonic", lambda: now["s"])
    return now


@pytest.mark.parametrize("minutes", [0.5, 10.0, 600.0])
def test_time_left_is_that_of_the_budget_and_of_the_rest_at_its_pace(clock, minutes):
    """All other phases take 270 s together, as long as they should beside ten minutes."""
    others = 1 - PHASES["training"]
    took_s = {name: 270 * share / others for name, share in PHASES.items()}
    took_s["training"] = 60 * minutes
    end_s = clock["s"] + sum(took_s.values())
    told = []
    tracker = Tracker(told.append, minutes)
    for phase in PHASES:
        tracker.begin(phase)
        begun_s = clock["s"]
        for share in (0.25, 0.5, 1.0):
            clock["s"] = begun_s + share * took_s[phase]
            tracker.advance(share)
            assert told[-1].time_left_s == pytest.approx(end_s - clock["s"], abs=1e-6)
    fractions = [each.fraction for each in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_time_left_of_training_that_ends_early_is_not_counted(clock):
    told = []
    tracker = Tracker(told.append, 600.0)
    tracker.begin("measuring the base")
    clock["s"] += 20
    tracker.begin("training")
    clock["s"] += 60
    tracker.advance(1 / 600)
    assert told[-1].time_left_s > 35000
    tracker.begin("averaging weights")
    assert told[-1].time_left_s < 600


def test_time_left_of_steps_is_told_by_the_pace(clock):
    told = []
    tracker = Tracker(told.append)
    tracker.advance(0.0)
    assert told[-1].time_left_s != told[-1].time_left_s
    for phase in list(PHASES)[: list(PHASES).index("training") + 1]:
        tracker.begin(phase)
    clock["s"] += 85
    tracker.advance(1.0)
    assert told[-1].fraction == pytest.approx(0.85)
    assert told[-1].time_left_s == pytest.approx(15)


def test_phases_that_are_left_out_count_for_nothing(clock):
    """With data that is given nothing is read or made: that took no time, so it tells no pace."""
    told = []
    tracker = Tracker(told.append, 10.0)
    tracker.begin("measuring the base")
    assert told[-1].fraction == 0
    clock["s"] += 20
    tracker.begin("training")
    rest = PHASES["averaging weights"] + PHASES["measuring the result"]
    rest_s = 20 * rest / PHASES["measuring the base"]
    assert told[-1].time_left_s == pytest.approx(600 + rest_s)


def test_lines_of_the_history_that_are_broken_are_passed_over(tmp_path):
    reporter = telling.TellingReporter(tmp_path, 1, Tracker(lambda progress: None))
    reporter._keep({"step": 2, "nll": 1.0})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('\n{"step": 4, "nl')  # killed, or the disk was full
    reporter._keep({"step": 6, "nll": 3.0})
    reporter._keep({"step": 6, "nll": 2.0})
    assert reporter.history() == [{"step": 2, "nll": 1.0}, {"step": 6, "nll": 2.0}]


def test_what_a_killed_run_measured_after_its_checkpoint_is_not_history(tmp_path):
    for step in (20, 40, 60):
        telling.TellingReporter(tmp_path, 1, Tracker(lambda _: None))._keep({"step": step})
    resumed = telling.TellingReporter(tmp_path, 1, Tracker(lambda _: None))
    with resumed.progress_bar(40):
        resumed._keep({"step": 70})
    assert [row["step"] for row in resumed.history()] == [20, 40, 70]


def test_a_full_disk_costs_the_history_not_the_run(tmp_path, monkeypatch, caplog):
    told = []
    reporter = telling.TellingReporter(tmp_path, 1, Tracker(told.append))
    monkeypatch.setattr(telling.Reporter, "validation", lambda *arguments: None)
    (tmp_path / "history.jsonl").mkdir()  # cannot be written, even by root
    reporter.validation(3, {"nll": 1.0}, None, None, None)
    assert "history.jsonl not written" in caplog.text
    assert told[-1].measures == {"nll": 1.0}


@pytest.mark.parametrize(
    "error", [av.error.FFmpegError(1, "no encoder"), OSError("disk full"), ValueError("odd")]
)
def test_a_video_that_fails_is_said_and_leaves_nothing(tmp_path, monkeypatch, caplog, error):
    def fail(path, *_):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(finetune_report, "_save_video", fail)
    path = tmp_path / "held_out.mp4"
    assert not finetune_report.try_to_save_video(path, None, None, None)
    assert "no video: " in caplog.text
    assert not path.exists()
