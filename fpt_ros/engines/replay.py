"""Work on a GPU that is recorded once per size, as a CUDA graph, and then replayed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import EngineError

# How many sizes of a stage are kept, and what their inputs and outputs may take; the one not used
# for longest makes room. In bfloat16 FPT-Base takes 25 MB for 4096 points, 300 MB for 16 candidates
# of 256 pokes. What a recording or a runtime needs for itself is not known: hence the number.
_KEPT_SIZES = 64
_KEPT_BYTES = 2 << 30

# Inputs that have the same address in every call, so that the work may read them where they are.
FIXED = ("map_", "image_")

# Enqueues work on the current stream and returns its outputs by name, in the same place each time.
Launch = Callable[[], Mapping[str, Tensor]]


class Replayed:
    """Runs work on inputs by name, in buffers of its own for every size.

    Outputs may be overwritten by the next call of this or of a companion. The host waits for
    nothing but the first call of a size.
    """

    def __init__(
        self, prepare: Callable[[Mapping[str, Tensor]], Launch], record: bool, pool: Any = None
    ) -> None:
        """Make the work of a size with `prepare`, which is given the buffers for the inputs.

        Without `record` it is launched anew in each call. Companions that run one after the other
        may share a pool of memory (torch.cuda.graph_pool_handle).
        """
        self._prepare = prepare
        self._record = record
        self._pool = pool
        self._sizes: OrderedDict[tuple[torch.Size, ...], _Work] = OrderedDict()

    def __call__(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Run the work. Raises EngineError when it fails, or memory is short."""
        size = tuple(each.shape for each in inputs.values())
        try:
            if size in self._sizes:
                self._sizes.move_to_end(size)
                return self._sizes[size].run(inputs)
            work = self._sizes[size] = self._work(inputs)
            outputs = work.run(inputs)
            work.n_bytes += sum(each.nbytes for each in outputs.values())
            while len(self._sizes) > _KEPT_SIZES or (
                len(self._sizes) > 1 and self._n_bytes() > _KEPT_BYTES
            ):
                self._sizes.popitem(last=False)
            return outputs
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is one of them
            raise EngineError(f"the GPU failed: {str(error).partition(chr(10))[0]}") from error

    def _n_bytes(self) -> int:
        return sum(work.n_bytes for work in self._sizes.values())

    def _work(self, inputs: Mapping[str, Tensor]) -> _Work:
        buffers = {
            name: each
            if name.startswith(FIXED)
            else each.clone(memory_format=torch.contiguous_format)
            for name, each in inputs.items()
        }
        prepared = self._prepare(buffers)
        launch = _recorded(prepared, self._pool) if self._record else prepared
        return _Work(buffers, prepared, launch)


class _Work:
    """The work of one size."""

    def __init__(self, buffers: Mapping[str, Tensor], prepared: Launch, launch: Launch) -> None:
        self._buffers = {name: each for name, each in buffers.items() if not name.startswith(FIXED)}
        self.n_bytes = sum(each.nbytes for each in self._buffers.values())
        self._prepared = prepared  # owns what a recording of it reads and writes
        self._launch = launch

    def run(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        # One kernel for all copies, where their layouts allow it.
        torch._foreach_copy_(list(self._buffers.values()), [inputs[name] for name in self._buffers])
        return self._launch()


def _recorded(launch: Launch, pool: Any) -> Launch:
    # Libraries choose kernels and allocate in the first runs, which must not be recorded.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            launch()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = launch()

    def replay() -> Mapping[str, Tensor]:
        graph.replay()
        return outputs

    return replay
