"""Choosing the backend of an operator.

A backend is named "triton", "cpp" or "reference". Each operator asks its backends in order why they would refuse the
call; "auto" takes the first that does not, and an explicit choice that refuses raises with its reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch

from rlv2v_fast import extension
from rlv2v_fast.ops.schemas import NAMESPACE, SCHEMAS
from rlv2v_fast.ops.transforms import is_transformed

BACKENDS = ("auto", "triton", "cpp", "reference")


def _why_not_cpu() -> str | None:
    """Why no C++ operator runs on the CPU: not built, or built from older sources than this package's."""
    if reason := extension.why_not_cpu():
        return reason
    missing = [
        name
        for name in (f"{NAMESPACE}::{operator}" for operator in sorted(SCHEMAS))
        if "triton" not in name and not _has_cpu_kernel(name)
    ]
    return f"the built library lacks {missing[0]}: it is older than the package, build it again" if missing else None


def _has_cpu_kernel(operator: str) -> bool:
    try:
        torch.library.get_kernel(operator, "CPU")
    except RuntimeError:
        return False
    return True


# Loaded once, at import: torch.compile can then treat the answer as a constant.
_CPP_REFUSALS = {"cpu": _why_not_cpu(), "cuda": extension.why_not_cuda()}

_warned: set[tuple[str, str]] = set()


class BackendFallbackWarning(UserWarning):
    """backend="auto" runs the plain PyTorch reference because no fused backend takes the call; said once a reason."""


def check_backend(backend: str, known: Sequence[str] = BACKENDS) -> str:
    """Return backend; ValueError unless it is one of known."""
    if backend not in known:
        raise ValueError(f"backend must be one of {', '.join(known)}; got {backend!r}")
    return backend


def choose(op: str, backend: str, refusals: Mapping[str, Callable[[], str | None]]) -> str:
    """Name of the backend that runs this call.

    Args:
        op: operator name, for messages.
        backend: one of BACKENDS.
        refusals: for each fused backend, fastest first, a function giving the reason it refuses this call, or None.

    Raises:
        ValueError: backend is not one of BACKENDS.
        RuntimeError: an explicit backend refuses; the message carries its reason.
    """
    check_backend(backend)
    if backend == "reference":
        return backend
    if reason := why_not_traced():
        if backend == "auto":
            return "reference"
        raise RuntimeError(f"backend={backend!r} cannot run {op}: {reason}; use backend='reference'")
    if backend != "auto":
        reason = refusals[backend]() if backend in refusals else "this operator has no such kernel"
        if reason is not None:
            raise RuntimeError(f"backend={backend!r} cannot run {op}: {reason}")
        return backend
    reasons = []
    for name, refuses in refusals.items():
        reason = refuses()
        if reason is None:
            return name
        reasons.append(f"{name}: {reason}")
    if reasons:
        _warn_once(op, "; ".join(reasons))
    return "reference"


def why_not_traced() -> str | None:
    """Why what traces this call cannot trace an operator; None where it can, or nothing traces."""
    compiling = torch.compiler.is_compiling()
    if not compiling and not torch.jit.is_tracing():
        return None
    if torch.onnx.is_in_onnx_export():
        return "ONNX has no such operator"
    if compiling and is_transformed():
        return "a compiler cannot trace an operator under torch.func or in forward mode"
    return None


def _warn_once(op: str, reasons: str) -> None:
    if torch.compiler.is_compiling() or (op, reasons) in _warned:
        return
    _warned.add((op, reasons))
    warnings.warn(f"{op} runs its PyTorch reference ({reasons})", BackendFallbackWarning, stacklevel=4)


def waits_for_launches(x: torch.Tensor, least: int) -> bool:
    """Whether a call with this tensor is one whose time on a GPU is that of the host, which launches kernels.

    Never while a compiler traces, which binds the graph to sizes on its side of such a rule, nor while a CUDA graph is
    captured, which replays without the host.

    Args:
        x: what the call works on. least: the number of elements from which the GPU takes longer than the host.
    """
    if not x.is_cuda or torch.compiler.is_compiling() or x.numel() >= least:
        return False
    return not torch.cuda.is_current_stream_capturing()


def cpp_refusal(tensor: torch.Tensor) -> str | None:
    """Why the C++ operators cannot take this tensor, judged by device and build; None when they can."""
    device = tensor.device.type
    if device in _CPP_REFUSALS:
        return _CPP_REFUSALS[device]
    return f"the C++ operators run on cpu and cuda, not on {device}"


def is_autocasting(x: torch.Tensor) -> bool:
    """Whether autocast is on for the device of x; the meta device has none, and PyTorch raises if asked about it."""
    device = x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)
