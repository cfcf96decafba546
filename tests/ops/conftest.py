import pytest

from rlv2v_fast import extension
from tests.ops.bn_cases import DEVICES, Place


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tests that use it run on every device, where clip and norm of bn_cases make their tensors."""
    if request.param == "cuda" and (reason := extension.why_not_cuda()):
        pytest.fail(reason)
    monkeypatch.setattr(Place, "device", request.param)
    return request.param
