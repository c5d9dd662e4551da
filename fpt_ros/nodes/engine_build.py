"""Builds engines while the node serves with another one. No ROS."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from fpt_ros.engines.choose import Wish

# Told the engine and, if it could not be built, why.
OnEnd = Callable[[str, str], object]


def build_command(checkpoint: Path, name: str, wish: Wish) -> list[str]:
    """The command that builds one engine, or "auto"."""
    return [
        *(sys.executable, "-m", "fpt_ros.cli.engine", "build"),
        *("--checkpoint", str(checkpoint)),
        *("--engine", name),
        *("--precision", wish.precision),
        *("--device", wish.device),
        *("--threads", str(wish.num_threads)),
        *("--folder", str(wish.root)),
    ]


def build_and_wait(command: Sequence[str]) -> int:
    """Run a `build_command` on the main thread; return its exit code, or 130 after SIGINT.

    The build ends with this process, in whatever way that does.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*command, "--end-with-stdin"], stdin=subprocess.PIPE) as build:
        try:
            return build.wait()
        except KeyboardInterrupt:
            build.kill()  # what it has written is cleaned up by the next build
            return 130


class EngineBuild:
    """Runs `fpt engine build` for one engine after the other, until one succeeds.

    In a process of its own, and at low priority: it may take much memory and all cores. It ends
    with this process, in whatever way that does.
    """

    def __init__(self, checkpoint: Path, names: Sequence[str], wish: Wish, on_end: OnEnd) -> None:
        """Begin. on_end is called from another thread, for each engine that was tried."""
        self._names = names
        self._on_end = on_end
        nice = ["nice", "-n", "10"] if shutil.which("nice") else []
        self._commands = [
            [*nice, *build_command(checkpoint, name, wish), "--end-with-stdin"] for name in names
        ]
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[str] | None = None
        threading.Thread(target=self._run, name="fpt_engine_build", daemon=True).start()

    def stop(self) -> None:
        """End the process; what it has written is cleaned up by the next build."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _run(self) -> None:
        for name, command in zip(self._names, self._commands, strict=True):
            with self._lock:
                if self._stopped:
                    return
                try:
                    self._process = subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                except OSError as error:  # no memory, too many processes
                    self._on_end(name, f"the build of {name} cannot be started: {error}")
                    continue
            with self._process as process:
                assert process.stderr is not None  # a pipe
                errors = process.stderr.read().strip().splitlines()
            if self._stopped:
                return
            code = process.returncode
            problem = (errors or [""])[-1] or f"the build ended with code {code}"
            self._on_end(name, problem if code else "")
            if code == 0:
                return
