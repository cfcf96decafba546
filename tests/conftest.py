import os

# Before torch is imported: two OpenMP threads spin on a busy machine, and a stale compiled backward must not be served.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _fused_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """backend="auto" runs the fused operators of the blocks on tensors as small as those of tests."""
    monkeypatch.setattr("rlv2v_fast.ops.causal_conv3d.is_worthwhile", lambda x, weight, upsample=False: True)
    monkeypatch.setattr("rlv2v_fast.ops.blocks.is_small", lambda x: False)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Runs of tests leave no decoded videos in the user's folder."""
    monkeypatch.setattr("rlv2v_fast.train.clips.default_folder", lambda: tmp_path_factory.getbasetemp() / "cache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
