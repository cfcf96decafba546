import warnings

import pytest
import torch

from rlv2v_fast.ops import backends
from rlv2v_fast.ops.backends import BackendFallbackWarning, choose


def test_auto_takes_the_first_backend_that_accepts():
    refusals = {"triton": lambda: "no GPU", "cpp": lambda: None}
    assert choose("op", "auto", refusals) == "cpp"


def test_auto_falls_back_to_the_reference_and_says_why_once(monkeypatch):
    monkeypatch.setattr(backends, "_warned", set())
    refusals = {"triton": lambda: "no GPU", "cpp": lambda: "not built"}
    with pytest.warns(BackendFallbackWarning, match="triton: no GPU; cpp: not built"):
        assert choose("op", "auto", refusals) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("op", "auto", refusals) == "reference"


def test_an_explicit_backend_that_refuses_raises_its_reason():
    with pytest.raises(RuntimeError, match="backend='triton' cannot run op: no GPU"):
        choose("op", "triton", {"triton": lambda: "no GPU", "cpp": lambda: None})


def test_an_explicit_backend_the_operator_lacks_raises():
    with pytest.raises(RuntimeError, match="has no such kernel"):
        choose("op", "triton", {"cpp": lambda: None})


def test_reference_never_asks_a_fused_backend():
    def never() -> str:
        raise AssertionError

    assert choose("op", "reference", {"cpp": never}) == "reference"


@pytest.mark.parametrize("tracer", ["compiler.is_compiling", "jit.is_tracing"])
def test_an_export_to_onnx_takes_the_reference(tracer, monkeypatch):
    """By the newer or the older exporter."""
    monkeypatch.setattr(f"torch.{tracer}", lambda: True)
    monkeypatch.setattr("torch.onnx.is_in_onnx_export", lambda: True)
    assert choose("op", "auto", {"cpp": lambda: None}) == "reference"
    with pytest.raises(RuntimeError, match="backend='cpp' cannot run op: ONNX has no such operator; use backend='ref"):
        choose("op", "cpp", {"cpp": lambda: None})


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match=r"backend must be one of .*; got 'cuda'"):
        choose("op", "cuda", {})


def test_a_library_older_than_the_package_is_refused_and_says_so(monkeypatch):
    monkeypatch.setattr(backends.extension, "why_not_cpu", lambda: None)
    monkeypatch.setattr(backends, "SCHEMAS", {"bn_relu_fwd": None, "bn_later_fwd": None})
    assert backends._why_not_cpu() == (
        "the built library lacks rlv2v_fast::bn_later_fwd: it is older than the package, build it again"
    )


class OnGpu:
    """What the rules by size ask of a tensor on a GPU."""

    is_cuda = True

    def __init__(self, numel):
        self._numel = numel

    def numel(self):
        return self._numel


@pytest.mark.parametrize("capturing", [False, True])
def test_small_calls_on_a_gpu_wait_unless_captured(capturing, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert backends.waits_for_launches(OnGpu(99), 100) is not capturing
    assert not backends.waits_for_launches(OnGpu(100), 100)
    assert not backends.waits_for_launches(torch.zeros(1), 100)


def test_traced_calls_do_not_depend_on_size(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not backends.waits_for_launches(OnGpu(1), 100)
