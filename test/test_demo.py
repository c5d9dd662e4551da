"""The demonstration, shortened and with a tiny random model, over real processes and DDS."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage

from demo.script import SCRIPT, How
from fpt_ros.bags import BagReader, BagWriter
from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import HeadConfig, ModelConfig, PyramidEncoderConfig, TransformerConfig
from fpt_ros.core.geometry import CropTransform
from fpt_ros.core.model import FlowPokeModel

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
LENGTH_S = 2.5  # of the cup clip
TINY = ModelConfig(
    PyramidEncoderConfig(input_px=64, width=32, depth=1, heads=2),
    TransformerConfig(width=32, depth=1, d_head=16),
    HeadConfig(n_components=2),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, FlowPokeModel(TINY), horizon_s=0.5)
    return path


@pytest.fixture(scope="module", autouse=True)
def _engines(tmp_path_factory):
    """Engines are not kept where the user's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def short_bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bag") / "short"
    with BagReader(ROOT / "demo" / "bag") as reader, BagWriter(path) as writer:
        for topic in reader.topics:
            writer.add_topic(topic.name, topic.type_name, topic.qos)
        for topic, stamp_ns, cdr in reader.messages():
            if stamp_ns - reader.start_ns < LENGTH_S * 1e9:
                writer.write(topic.name, topic.type_name, stamp_ns, cdr)
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_that_mention(path: Path) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(path) in command:
            found.append(command)
    return found


def images_of(path: Path) -> list[bytes]:
    """The images in a bag, as JPEG."""
    with BagReader(path) as bag:
        return [
            deserialize_message(cdr, CompressedImage).data.tobytes()
            for *_, cdr in bag.messages(["/camera/image_raw/compressed"])
        ]


def test_pytorch_is_not_imported_before_anything_is_drawn():
    code = "import sys, demo.__main__; print('torch' in sys.modules)"
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert printed.split() == ["False"]


def test_plans_fit_every_image_that_they_meet():
    with BagReader(ROOT / "demo" / "bag") as bag:
        infos = [
            ((time_ns - bag.start_ns) * 1e-9, deserialize_message(cdr, CameraInfo))
            for _, time_ns, cdr in bag.messages(["/camera/camera_info"])
        ]
    assert len({info.height for _, info in infos}) == 2
    plans = [question for question in SCRIPT if question.how is How.PLAN]
    for plan, following in zip(plans, [*plans[1:], None], strict=True):
        (pokes,) = plan.candidates.values()
        last_s = next((s for s, _ in infos if following and s >= following.at_s), infos[-1][0])
        for at_s, info in infos:
            if plan.at_s <= at_s <= last_s:  # the first image after it, too
                sight = CropTransform(info.width, info.height, 64)
                assert sight.contains(np.reshape(pokes, (-1, 4))[:, :2]).all(), (plan.id, at_s)


def test_a_short_demonstration_over_an_earlier_one(tmp_path, checkpoint, short_bag):
    output = tmp_path / "output"
    for folder in ("bag", "stills"):
        (output / folder).mkdir(parents=True)
    for file in ("bag/old.mcap", "stills/old.png", "video.mp4", "mine.txt"):
        (output / file).write_text("from before")
    demo = start("--checkpoint", checkpoint, "--bag", short_bag, "--out", output)
    printed, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, printed
    assert (output / "mine.txt").exists()
    assert not (output / "stills" / "old.png").exists()
    script = [question for question in SCRIPT if question.at_s < LENGTH_S]
    for question in script:
        assert question.id in printed
    assert "no answer" not in printed
    report = (output / "report.txt").read_text()
    assert report.count("OK") >= 1
    # The first plan was not sent before the node had an image.
    (first,) = (row for row in report.splitlines() if script[0].id in row)
    assert "NO_IMAGE" not in first
    with BagReader(output / "bag") as bag:
        counts = {topic.name: topic.message_count for topic in bag.topics}
        types = {topic.name: topic.type_name for topic in bag.topics}
    sent, recorded = images_of(short_bag), images_of(output / "bag")
    # On a busy machine a camera overwrites images that were not fetched, but never the newest.
    rest = iter(sent)
    assert all(image in rest for image in recorded)  # and in this order
    assert recorded[-1] == sent[-1]
    assert len(recorded) > len(script)  # each question was asked on another one
    rows = [row.strip().rsplit("  ", 1) for row in report.splitlines() if "  " in row.strip()]
    told = {name.strip(): value.split()[0] for name, value in rows}
    assert int(told["images published"]) == len(sent)
    reached, processed, lost = (
        int(told[name])
        for name in ("images that reached the node", "images processed", "dropped: lost on the way")
    )
    dropped = sum(int(told[n]) for n in told if n.startswith("dropped: ") and "lost" not in n)
    assert 0 < processed <= reached <= len(sent) - lost
    # One that is being processed, and one that waits, when the node last reports.
    assert 0 <= reached - processed - dropped <= 2
    assert types["/predictor/motion"] == "fpt_ros/msg/MotionDistribution"
    assert counts["/predictor/motion"] >= sum(question.how.value == "plan" for question in script)
    assert counts["/predictor/what_if_motion"] == 1
    assert counts["/predictor/model_info"] in (1, 2)  # again when a faster engine is built
    assert counts["/predictor/moving_part/mask"] >= 1

    with av.open(str(output / "video.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) >= 2
    assert frames[0].std() > 10
    stills = sorted((output / "stills").iterdir())
    assert stills
    assert all(cv2.imread(str(still)) is not None for still in stills)
    assert not processes_that_mention(checkpoint)


def test_a_predictor_that_cannot_start_is_reported(tmp_path, short_bag):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    demo = start("--checkpoint", broken, "--bag", short_bag, "--out", tmp_path / "output")
    printed, _ = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert "failed" in printed
    assert "broken.safetensors" in printed
    assert "Traceback" not in printed
    assert not processes_that_mention(broken)


def test_interrupting_ends_all_processes(tmp_path, checkpoint, short_bag):
    output = tmp_path / "output"
    demo = start("--checkpoint", checkpoint, "--bag", short_bag, "--out", output)
    deadline_s = time.monotonic() + 60
    while not (output / "player.log").exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    demo.send_signal(signal.SIGINT)
    printed, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, printed
    assert "Traceback" not in printed
    assert not processes_that_mention(checkpoint)
    assert not processes_that_mention(output)
