"""convlstm_sequence_fwd for inference as a CUDA graph: one launch for the whole sequence where shapes repeat.

At small sizes the sequence's time is that of its 2T launches; a graph leaves the GPU's own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from rlv2v_fast.kernels.convlstm_sequence import convlstm_sequence_fwd
from rlv2v_fast.kernels.layer_inputs import LayerInputs

# Every graph holds its inputs, outputs and scratch; the least recently used goes first.
MAX_GRAPHS = 8

_graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
_lock = threading.Lock()


class _Graph:
    """One captured sequence with inputs and outputs of its own."""

    def __init__(self, inputs: LayerInputs) -> None:
        self.inputs = LayerInputs(*(None if t is None else torch.empty_like(t) for t in inputs))
        self._copy_in(inputs)
        # The first run compiles kernels and lets cuDNN choose and allocate, none of which may happen in a capture.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self._run()

    def _run(self) -> tuple[Tensor, Tensor, Tensor]:
        return convlstm_sequence_fwd(self.inputs, memory="none")[:3]

    def _copy_in(self, inputs: LayerInputs) -> None:
        for static, tensor in zip(self.inputs, inputs, strict=True):
            if static is not None:
                static.copy_(tensor)

    def __call__(self, inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor]:
        self._copy_in(inputs)
        self.graph.replay()
        output, h, c = (t.clone() for t in self.outputs)
        return output, h, c


def _key(inputs: LayerInputs) -> Hashable:
    """What a capture depends on. Two streams may replay at once, so each has graphs of its own."""
    # cudnn.allow_tf32 raises where a program has set the precision of convolutions by themselves.
    flags: Any = torch.backends.cudnn
    convolution = flags.conv
    return (
        torch.cuda.current_stream().cuda_stream,
        torch.cuda.current_device(),
        (convolution.fp32_precision, flags.benchmark, flags.deterministic),
        tuple(None if t is None else (t.shape, t.stride(), t.dtype) for t in inputs),
    )


def replay(inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor]:
    """output, h and c of convlstm_sequence_fwd, by a graph that the first call with these shapes captures.

    All inputs, weights included, are copied into the graph's own, so they may be new tensors at every call; the results
    are copies that no later call changes. Everything is on the current device.
    """
    if torch.cuda.is_current_stream_capturing():
        return convlstm_sequence_fwd(inputs, memory="none")[:3]
    key = _key(inputs)
    with _lock:
        if key not in _graphs:
            _graphs[key] = _Graph(inputs)
            while len(_graphs) > MAX_GRAPHS:
                _graphs.popitem(last=False)
        _graphs.move_to_end(key)
        return _graphs[key](inputs)
