"""`fpt doctor`: what works on this machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fpt_ros.cli.pip import install_command

State = Literal["ok", "missing", "broken", "note"]

_PROBE_TIMEOUT_S = 60
_ENOUGH_SHARED_MEMORY = 256 << 20


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    needed: bool = False  # without it nothing can be predicted


def doctor(json_output: Annotated[bool, tyro.conf.arg(name="json")] = False) -> int:
    """Tell what works on this machine, what is missing, and the command that mends it.

    Exit code 0 if predictions can be made (the rows marked *), 1 otherwise. Nothing is changed or
    downloaded.

    Args:
        json_output: print JSON instead of the table
    """
    from rich.console import Console

    with (
        Console(stderr=True).status("trying one thing after the other"),
        ThreadPoolExecutor(2) as pool,
    ):
        findings = list(pool.map(lambda check: check(), _CHECKS))
    works = all(found.state == "ok" for found in findings if found.needed)
    if json_output:
        print(json.dumps({"works": works, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        _print_table(findings, works)
    return 0 if works else 1


def _print_table(findings: list[Finding], works: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "missing": "yellow", "broken": "red", "note": "cyan"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for overflow in ("ellipsis", "ellipsis", "fold"):
        table.add_column(overflow=overflow)
    for found in findings:
        what = Text(found.detail)
        if found.remedy:
            what.append("\n-> " + found.remedy, style="bold")
        name = found.name + (" *" if found.needed else "")
        table.add_row(name, Text(found.state, style=colours[found.state]), what)
    console = Console()
    console.print(table)
    console.print(
        "\nPredictions work here." if works else "\nPredictions do not work here; see the rows *."
    )


def _probe(code: str, **environment: str) -> tuple[bool, str]:
    """Run Python code; return success and its last line of output.

    In a process of its own, since foreign libraries may crash or hang.
    """
    same_modules = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **same_modules, **environment},
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {_PROBE_TIMEOUT_S} s; try again on a quiet machine"
    output = done.stdout if done.returncode == 0 else done.stderr
    lines = output.strip().splitlines() or [f"exit code {done.returncode}"]
    return done.returncode == 0, lines[-1]


def _module(
    name: str, module: str, remedy: str, code: str = "", needed: bool = False
) -> Callable[[], Finding]:
    """A check that a module can be imported and that a line of code with it works."""

    def check() -> Finding:
        if find_spec(module) is None:
            return Finding(name, "missing", f"no Python module {module}", remedy, needed)
        works, detail = _probe(f"import {module}\n{code or f'print({module}.__version__)'}")
        return Finding(name, "ok" if works else "broken", detail, "" if works else remedy, needed)

    return check


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()}, {sys.executable}", needed=True)


def _cpu() -> Finding:
    """The instruction sets that decide how fast the network runs."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    flags: set[str] = set()
    for line in text.splitlines():
        if line.startswith("flags"):
            flags = set(line.split(":", 1)[1].split())
            break
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}
    sets = [f"{label} {'yes' if flag in flags else 'no'}" for flag, label in known.items()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("CPU", "note", f"{platform.machine()}, {cores} cores; {', '.join(sets)}")


def _gpu() -> Finding:
    if find_spec("torch") is None:
        return Finding("CUDA GPU", "missing", "cannot be asked without PyTorch")
    works, detail = _probe(
        "import torch\nprint(torch.cuda.get_device_name() if torch.cuda.is_available() else 'none')"
    )
    if works and detail != "none":
        return Finding("CUDA GPU", "ok", detail)
    if shutil.which("nvidia-smi"):
        return Finding(
            "CUDA GPU",
            "broken",
            "there is an NVIDIA driver, but this PyTorch cannot use it",
            "install the PyTorch build for your CUDA version: see PyTorch's installation page",
        )
    return Finding("CUDA GPU", "note", "none; the CPU is used")


def _ros() -> Finding:
    if find_spec("rclpy") is None:
        remedy = (
            "source /opt/ros/<distribution>/setup.bash"
            if Path("/opt/ros").is_dir()
            else install_command("'ros-rclpy[fastrtps]==9.1.2'")
        )
        return Finding("ROS 2", "missing", "no Python module rclpy", remedy)
    works, detail = _probe(
        "import rclpy\nrclpy.init()\n"
        "from rclpy.utilities import get_rmw_implementation_identifier as rmw\n"
        "print('rclpy with', rmw())\nrclpy.shutdown()"
    )
    if works:
        return Finding("ROS 2", "ok", detail)
    remedy = "unset RMW_IMPLEMENTATION" if os.environ.get("RMW_IMPLEMENTATION") else ""
    return Finding("ROS 2", "broken", detail, remedy)


def _messages() -> Finding:
    works, detail = _probe(
        "from fpt_ros.msg import MotionDistribution\nMotionDistribution()\nprint('they load')"
    )
    if works:
        return Finding("fpt_ros messages", "ok", detail)
    return Finding(
        "fpt_ros messages",
        "missing",
        detail,
        _from_source(with_ros="colcon build, and source install/setup.bash"),
    )


def _from_source(with_ros: str) -> str:
    """What mends it in the source folder; the wheels of ROS 2 do not mix with an installed one."""
    has_ros = "AMENT_PREFIX_PATH" in os.environ or Path("/opt/ros").is_dir()
    return f"in the source folder: {with_ros if has_ros else install_command('--editable', '.')}"


def _fast_dds_profile() -> Finding:
    from fpt_ros.dds import profile_environment

    name = "Fast DDS profile"
    missing = profile_environment(os.environ)
    if not missing:
        return Finding(name, "ok", "one, other transports or another middleware are chosen")
    (variable, path), *_ = missing.items()
    return Finding(
        name,
        "note",
        "none in this shell: other nodes, the camera driver above all, may lose large images",
        f"export {variable}={path}",
    )


def _shared_memory() -> Finding:
    name = "shared memory"
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding(name, "note", "there is no /dev/shm; images go through the network stack")
    detail = f"{free >> 20} MB free in /dev/shm"
    if free >= _ENOUGH_SHARED_MEMORY:
        return Finding(name, "ok", detail)
    remedy = "remove what dead processes left: fastdds shm clean; in Docker: --shm-size=1g"
    return Finding(name, "broken", detail + ", too little for camera images", remedy)


def _renderer() -> Finding:
    name = "MuJoCo, EGL"
    if find_spec("mujoco") is None:
        return Finding(
            name, "missing", "no Python module mujoco: no `fpt scenes`", install_command("mujoco")
        )
    works, detail = _probe(
        "import mujoco\n"
        "model = mujoco.MjModel.from_xml_string('<mujoco/>')\n"
        "renderer = mujoco.Renderer(model, 16, 16)\n"
        "renderer.update_scene(mujoco.MjData(model))\n"
        "renderer.render()\nrenderer.close()\n"
        "print(mujoco.__version__, 'renders without a display')",
        MUJOCO_GL="egl",
    )
    if works:
        return Finding(name, "ok", detail)
    return Finding(name, "broken", detail, "apt-get install libegl1 libgl1-mesa-dri")


def _bags() -> Finding:
    name = "recordings"
    try:
        return Finding(name, "ok", f"rosbags {version('rosbags')}")
    except PackageNotFoundError:
        return Finding(
            name, "missing", "no `fpt play`, no `fpt record`", install_command("rosbags")
        )


def _training() -> Finding:
    packages = {
        "matplotlib": "matplotlib",
        "scipy": "scipy",
        "skimage": "scikit-image",
        "tensorboard": "tensorboard",
    }
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        detail = f"no `fpt train`, no `fpt evaluate` without {', '.join(missing)}"
        return Finding("training", "missing", detail, install_command(*missing))
    return Finding("training", "ok", f"{', '.join(packages.values())} are there")


def _weights() -> Finding:
    from fpt_ros.core.errors import FptError
    from fpt_ros.weights import default_checkpoint

    name = "default weights"
    try:
        path = default_checkpoint()
    except FptError as error:
        return Finding(name, "missing", str(error), "pass --checkpoint FILE, or fpt train")
    if find_spec("torch") is None:
        return Finding(name, "note", f"{path}; cannot be read without PyTorch")
    works, detail = _probe(
        "from fpt_ros.core.checkpoint import load_checkpoint\n"
        f"c = load_checkpoint({str(path)!r})\n"
        "print(f'horizon {c.horizon_s:g} s, {c.licence}, sha256 {c.sha256}')"
    )
    if works:
        return Finding(name, "ok", f"{path}: {detail}")
    return Finding(name, "broken", f"{path}: {detail}", f"git checkout -- {path}")


def _network() -> Finding:
    """A small network answers a poke on a small image."""
    works, detail = _probe(
        "import time, numpy, torch\n"
        "from fpt_ros.core.config import FPT_SMALL\n"
        "from fpt_ros.core.engine import TorchEngine\n"
        "from fpt_ros.core.model import FlowPokeModel\n"
        "from fpt_ros.core.predictor import MotionPredictor\n"
        "predictor = MotionPredictor(TorchEngine(FlowPokeModel(FPT_SMALL)))\n"
        "image = numpy.zeros((480, 640, 3), numpy.uint8)\n"
        "for _ in range(2):\n"
        "    start = time.perf_counter()\n"
        "    predictor.set_image(image)\n"
        "    encoded = time.perf_counter()\n"
        "    predictor.predict_grid([[320, 240, 40, 0]], 32)\n"
        "    end = time.perf_counter()\n"
        "print(f'image {1e3 * (encoded - start):.0f} ms, 1024 points {1e3 * (end - encoded):.0f}'\n"
        "      f' ms on {torch.get_num_threads()} CPU threads')"
    )
    if works:
        return Finding("small network", "ok", detail, needed=True)
    remedy = _from_source(with_ros=install_command("-r requirements.txt"))
    return Finding("small network", "broken", detail, remedy, needed=True)


def _engine() -> Finding:
    """Which engine would run the default weights."""
    works, detail = _probe(
        "from fpt_ros.core.checkpoint import load_checkpoint\n"
        "from fpt_ros.core.errors import EngineError\n"
        "from fpt_ros.engines import cache, choose\n"
        "from fpt_ros.weights import default_checkpoint\n"
        "checkpoint, wish = load_checkpoint(default_checkpoint()), choose.Wish()\n"
        "texts = []\n"
        "for name in wish.order():\n"
        "    if name not in choose.BACKENDS:\n"
        "        texts.append(name)\n"
        "        break\n"
        "    try:\n"
        "        identity = choose.identify(checkpoint, name, wish)\n"
        "        texts.append(cache.find(wish.root, identity).folder.name)\n"
        "        break\n"
        "    except EngineError as error:\n"
        "        texts.append(f'{name}: {error}')\n"
        "print('; '.join(texts))"
    )
    if not works:
        return Finding("engine", "broken", detail)
    if "has been built" in detail or "built for something else" in detail:
        return Finding("engine", "note", detail, "fpt engine build, or let the node do it")
    return Finding("engine", "ok", detail)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _module(
        "PyTorch",
        "torch",
        install_command("torch"),
        "print(torch.__version__, 'with', torch.backends.cpu.get_cpu_capability())",
        needed=True,
    ),
    _module("OpenCV", "cv2", install_command("opencv-python-headless"), needed=True),
    _module("safetensors", "safetensors", install_command("safetensors"), needed=True),
    _network,
    _weights,
    _cpu,
    _gpu,
    _module("OpenVINO", "openvino", install_command("'openvino>=2026.4'")),
    _engine,
    _ros,
    _messages,
    _fast_dds_profile,
    _shared_memory,
    _bags,
    _module("video", "av", install_command("av")),
    _renderer,
    _training,
)
