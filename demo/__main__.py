"""The demonstration, started by `make demo`: three processes that talk over real DDS.

A player publishes the recording demo/bag as a live camera would, the predictor node answers, and
this process asks questions at given times (demo/script.py), records all answers and makes pictures
and a table of them.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import av  # noqa: F401 - pictures need it: whether it is there shows before anything is played
import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from demo.asker import CAMERA_INFO, IMAGE, Asker
from demo.processes import Process, ProcessFailed
from demo.script import SCRIPT, Question
from fpt_ros.bags import BagReader, BagWriter
from fpt_ros.core.errors import FptError
from fpt_ros.dds import profile_environment
from fpt_ros.weights import default_checkpoint

BAG = Path(__file__).parent / "bag"
LOAD_TIMEOUT_S = 120.0
PLAY_TIMEOUT_S = 60.0  # longer than the recording lasts
ANSWER_TIMEOUT_S = 20.0  # after the last image
LAST_DIAGNOSTICS_S = 1.5  # they come once a second

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PREDICTOR = "from fpt_ros.nodes.predictor import main; raise SystemExit(main())"
FPT = "from fpt_ros.cli import main; raise SystemExit(main())"


class DemoFailed(Exception):
    """The demonstration did not come to its end; the message says why."""


def main() -> int:
    """Run the demonstration; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python -m demo")
    parser.add_argument("--checkpoint", type=Path, help="weights; default: the packaged ones")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder")
    parser.add_argument("--bag", type=Path, default=BAG, help="recording to play")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    began_s = time.monotonic()
    try:
        checkpoint = arguments.checkpoint or default_checkpoint()
        output = prepared_folder(arguments.out)
        environment = isolated_environment()
        os.environ.update(environment)
        with BagReader(arguments.bag) as bag:
            images = next(t.message_count for t in bag.topics if t.name == IMAGE)
            duration_s = bag.duration_s
        script = [question for question in SCRIPT if question.at_s < duration_s]
        play(arguments.bag, duration_s, checkpoint, output, script, images, console)
        show(output, script, images, console)
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]; all processes have ended")
        return 130
    except (DemoFailed, ProcessFailed, FptError) as error:
        console.print("[bold red]the demonstration failed:[/]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)  # paths stay whole
        return 1
    console.print(f"{time.monotonic() - began_s:.0f} s in all")
    return 0


def prepared_folder(folder: Path) -> Path:
    """Make the output folder, without what an earlier demonstration left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("bag", "stills"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("video.mp4", "report.txt", "predictor.log", "player.log"):
        (folder / name).unlink(missing_ok=True)
    return folder


def isolated_environment() -> dict[str, str]:
    """Return an environment in which no other ROS system hears us, nor we them."""
    environment = dict(os.environ)
    environment["ROS_DOMAIN_ID"] = str(random.randint(1, 101))
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    return environment | profile_environment(environment)


def play(
    bag: Path,
    duration_s: float,
    checkpoint: Path,
    output: Path,
    script: Sequence[Question],
    images: int,
    console: Console,
) -> None:
    """Run the three processes until the recording is over and all questions are answered."""
    predictor = ["-c", PREDICTOR, "--ros-args", "-p", f"checkpoint:={checkpoint.resolve()}"]
    predictor += ["-p", "image_transport:=compressed"]
    predictor += ["-p", "frame_history:=32"]  # a second of images, for slow machines
    predictor += ["-r", f"image/compressed:={IMAGE}", "-r", f"camera_info:={CAMERA_INFO}"]
    # The header stamps become the time of this run, as a camera's would be: then the age of an
    # answer is the difference of two readings of one clock. With the recorded stamps it would have
    # to be read from /clock, which ticks every 10 ms only.
    player = ["-c", FPT, "play", str(bag), "--stamp", "now", "--subscribers", "2"]
    environment = dict(os.environ)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    ros = ExitStack()
    ros.callback(rclpy.try_shutdown)
    # A KeyboardInterrupt may be raised where it is swallowed (in a finaliser, in a callback of a
    # library); a flag is not.
    interrupted = threading.Event()
    for number in STOP_SIGNALS:
        before = signal.signal(number, lambda *_: interrupted.set())
        ros.callback(signal.signal, number, before)
    with (
        ros,
        BagWriter(output / "bag") as writer,
        Process("predictor node", predictor, output / "predictor.log", environment) as node_process,
        Progress(*columns, console=console) as progress,
    ):
        node = rclpy.create_node("demo_asker")
        asker = Asker(node, writer, script)
        task = progress.add_task("starting the predictor node", total=images, note="")
        deadline_s = time.monotonic() + LOAD_TIMEOUT_S
        while not asker.is_connected():
            if interrupted.is_set():
                raise KeyboardInterrupt
            node_process.must_run()
            if asker.complaint:
                raise DemoFailed(f"the predictor node says: {asker.complaint}")
            if time.monotonic() > deadline_s:
                raise DemoFailed(f"the predictor node was not ready within {LOAD_TIMEOUT_S:g} s")
            rclpy.spin_once(node, timeout_sec=0.1)
        progress.update(task, description="playing the recording")
        with Process("player", player, output / "player.log", environment) as player_process:
            played_s = None
            deadline_s = time.monotonic() + duration_s + PLAY_TIMEOUT_S
            while True:
                if interrupted.is_set():
                    raise KeyboardInterrupt
                node_process.must_run()
                rclpy.spin_once(node, timeout_sec=0.1)
                progress.update(
                    task, completed=asker.images, note=f"{asker.motions} images answered"
                )
                if not player_process.has_finished():
                    if time.monotonic() > deadline_s:
                        raise DemoFailed(f"the player does not end; see {output}/player.log")
                    continue
                played_s = played_s or time.monotonic()
                rest_s = time.monotonic() - played_s
                if asker.has_all_answers and rest_s > LAST_DIAGNOSTICS_S:
                    break
                if rest_s > ANSWER_TIMEOUT_S:
                    raise DemoFailed(f"no answer to {', '.join(map(repr, asker.missing))}")
        node_process.stop()


def show(output: Path, script: Sequence[Question], images_sent: int, console: Console) -> None:
    """Make video, stills and tables from the recorded bag."""
    with console.status("drawing"):
        # They need PyTorch, and the node must not wait until this process has it, too.
        from demo import pictures, report
        from demo.recording import Recording

        recording = Recording.load(output / "bag")
        refused = recording.refused(script)
        if len(refused) == len(script):
            raise DemoFailed(f"not one good answer; see {output}/predictor.log")
        stills = pictures.save_stills(output / "stills", recording, script)
        frames = pictures.save_video(output / "video.mp4", recording, script)
    tables = report.tables(recording, script, images_sent)
    console.print(tables)
    with (output / "report.txt").open("w") as file:
        Console(file=file, width=120).print(tables)
    if refused:
        console.print(
            f"[yellow]{len(refused)} questions got no prediction[/]; this machine was too slow or "
            f"too busy, or {output}/predictor.log says more: {', '.join(refused)}"
        )
    console.print(f"{output}/video.mp4   {frames} answers over the camera images")
    console.print(f"{output}/stills/     {len(stills)} pictures: expected motion, modes, ...")
    console.print(f"{output}/bag/        all of it as rosbag2: try `fpt play {output}/bag`")


if __name__ == "__main__":
    sys.exit(main())
