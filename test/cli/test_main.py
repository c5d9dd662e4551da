"""The `fpt` command itself: help, unknown commands, and how errors come out."""

import io
import logging
import multiprocessing
import subprocess
import sys

import pytest
import rich.progress

from fpt_ros import cli
from fpt_ros.cli.logs import log_to_stderr
from fpt_ros.cli.pip import install_command
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.train.finetune import Stopped
from fpt_ros.train.progress import TRAINING, Progress


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_all_commands(capsys, arguments):
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS)


def test_help_needs_no_library():
    code = (
        "import sys; from fpt_ros import cli; cli.main(['--help'])\n"
        "print([name for name in ('torch', 'cv2', 'numpy', 'tyro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_command_suggests_the_nearest(capsys):
    assert cli.main(["pedict"]) == 2
    assert "did you mean `fpt predict`?" in capsys.readouterr().err
    assert cli.main(["frobnicate"]) == 2
    assert "`fpt --help` lists the commands" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(capsys, name):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: fpt {name}" in text
    assert "Args:" not in text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidInputError("pokes[1] is not finite"), "fpt doctor: pokes[1] is not finite"),
        (FileNotFoundError(2, "No such file", "a.png"), "fpt doctor: [Errno 2] No such file"),
        (ModuleNotFoundError("x", name="mujoco"), "pip install mujoco"),
        (ModuleNotFoundError("x", name="cv2"), "pip install opencv-python-headless"),
        (ModuleNotFoundError("x", name="rclpy.node"), "rclpy.node is missing: see `fpt doctor`"),
    ],
)
def test_errors_are_one_line(capsys, monkeypatch, error, line):
    def fails() -> None:
        raise error

    monkeypatch.setattr("fpt_ros.cli.doctor.doctor", fails)
    assert cli.main(["doctor"]) == 2
    text = capsys.readouterr().err
    assert line in text
    assert text.count("\n") == 1


def test_exit_codes(monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fpt_ros.cli.doctor.doctor", interrupted)
    assert cli.main(["doctor"]) == 130
    monkeypatch.setattr("fpt_ros.cli.doctor.doctor", lambda: 1)
    assert cli.main(["doctor"]) == 1
    assert cli.main(["doctor", "--no-such-option"]) == 2


@pytest.mark.parametrize("name", ["train", "finetune"])
def test_a_stopped_run_is_no_success(monkeypatch, capsys, tmp_path, name):
    class Trainer:
        def __init__(self, config):
            pass

        def run(self):
            return False

    class FineTuning:
        def __init__(self, config, tell):
            pass

        def run(self):
            raise Stopped("stopped at step 3; go on with --resume")

    monkeypatch.setattr("fpt_ros.train.loop.Trainer", Trainer)
    monkeypatch.setattr("fpt_ros.train.finetune.FineTuning", FineTuning)
    assert cli.main([name, "--data", str(tmp_path), "--out", str(tmp_path)]) == 130
    assert ("stopped at step 3" in capsys.readouterr().err) == (name == "finetune")


def test_a_bar_shows_what_is_not_training(monkeypatch, capsys, tmp_path):
    told, bars = [], []

    class Bar(rich.progress.Progress):
        def __init__(self, *columns, **settings):
            bars.append(self)
            super().__init__(*columns, **settings)

    class FineTuning:
        def __init__(self, config, tell):
            self.tell = tell

        def run(self):
            for phase in ("reading the recording", TRAINING, "measuring the result"):
                self.tell(Progress(phase, 0.125, 90.0))
                capsys.readouterr()
                logging.getLogger("fpt_ros").info("a line")
                bars[0].refresh()
                told.append(capsys.readouterr().err)
            raise Stopped("stopped")

    monkeypatch.setattr(rich.progress, "Progress", Bar)
    monkeypatch.setattr("fpt_ros.train.finetune.FineTuning", FineTuning)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.INFO)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path)]
    assert cli.main(["finetune", *arguments]) == 130
    assert "\x1b[?25h" in capsys.readouterr().err  # the cursor is there again
    for text, phase in zip(
        told, ("reading the recording", "", "measuring the result"), strict=True
    ):
        assert ("12.5 % of all" in text) == bool(phase)
        assert phase in text
        assert text.count("INFO a line\n") == 1


def test_forked_processes_log_past_the_bar(monkeypatch, capfd):
    """What stands in for standard error has locks that other threads hold while it is forked."""
    monkeypatch.setattr(logging.root, "handlers", [])
    log_to_stderr()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    fork = multiprocessing.get_context("fork")
    worker = fork.Process(target=logging.getLogger("fpt_ros").warning, args=("skipped",))
    worker.start()
    worker.join()
    assert capfd.readouterr().err.endswith("WARNING skipped\n")


def test_training_under_torchrun_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, "-m", "fpt_ros.cli.train", "--data", str(tmp_path / "none")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fpt train: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("virtual", "marked", "flagged"),
    [(False, True, True), (True, True, False), (False, False, False)],
)
def test_a_managed_python_is_told_so(monkeypatch, tmp_path, virtual, marked, flagged):
    if marked:
        (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
    monkeypatch.setattr("sys.base_prefix", "/elsewhere" if virtual else sys.prefix)
    assert ("--break-system-packages" in install_command("mujoco")) == flagged
