"""When a run validates, saves and stops, agreed on by all its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass
class Decision:
    """What the first process decides for all at the start of a step."""

    progress: float = 0.0
    stop: bool = False
    checkpoint: bool = False
    validate: bool = False

    def shared(self) -> Decision:
        """The first process's decision, on every process."""
        if not dist.is_initialized():
            return self
        wire = torch.tensor(
            [self.progress, self.stop, self.checkpoint, self.validate],
            dtype=torch.float64,
            device="cuda" if dist.get_backend() == "nccl" else "cpu",
        )
        dist.broadcast(wire, src=0)
        progress, stop, checkpoint, check = wire.tolist()
        return Decision(progress, bool(stop), bool(checkpoint), bool(check))


class Clock:
    """Training time, continued across resumes, and when periodic work is due."""

    def __init__(self, elapsed_s: float) -> None:
        self._start_s = time.monotonic() - elapsed_s
        self._last_s: dict[str, float] = {}

    def now(self) -> float:
        return time.monotonic() - self._start_s

    def due(self, what: str, every_minutes: float) -> bool:
        now_s = self.now()
        if now_s - self._last_s.setdefault(what, now_s) < 60 * every_minutes:
            return False
        self._last_s[what] = now_s
        return True


_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag; a second one interrupts at once."""
    asked: list[int] = []

    def remember(number: int, frame: object) -> None:
        asked.append(number)
        for each in previous:
            signal.signal(each, signal.SIG_DFL)

    previous = {each: signal.getsignal(each) for each in _STOPPING}
    try:
        for each in previous:
            signal.signal(each, remember)
        yield lambda: bool(asked)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def stop_for_parent_alone(worker: int) -> None:
    """Let no SIGINT or SIGTERM end this loader process but its parent's, with which torch ends it.

    Ctrl-C, `timeout`, torchrun and systemd signal loaders too, and a run that loses one fails
    before it is saved. When the parent is gone, torch ends its loaders.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)

    def wait() -> None:
        while signal.sigwaitinfo(_STOPPING).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        # Otherwise all processes would put what names no device onto the first GPU.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl"
    dist.init_process_group(backend)
    try:
        yield
    finally:
        dist.destroy_process_group()
