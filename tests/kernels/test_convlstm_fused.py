"""The one-kernel step against the sequence of convolutions and gate kernels, which test_convlstm_sequence.py checks."""

import pytest
import torch

from rlv2v_fast.kernels.convlstm_fused import GROUP, convlstm_fused_fwd, interleave_gates
from rlv2v_fast.kernels.layer_inputs import LayerInputs
from rlv2v_fast.reference.convlstm import convlstm_reference
from rlv2v_fast.reference.precision import accumulation_dtype


def problem(dtype, device, *, size, kernel, options=True, seed=0):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape, dtype=dtype, scale=1.0):
        return (scale * torch.randn(shape, generator=random)).to(device, dtype)

    b, t, c, k, h, w = size
    return [
        draw(b, t, c, h, w),
        draw(4 * k, c + k, *kernel, scale=((c + k) * kernel[0] * kernel[1]) ** -0.5),
        draw(4 * k) if options else None,
        draw(b, k, h, w, scale=0.5),
        draw(b, k, h, w, dtype=accumulation_dtype(dtype)),
        draw(3, k) if options else None,
        torch.tensor([t, 0, (t + 1) // 2], device=device)[:b] if options else None,
    ]


def assert_as_exact_as_reference(arguments) -> None:
    """At most twice the reference's own error against float64 in this dtype, plus a rounding of the largest entry."""
    exact = convlstm_reference(*(t.double() if t is not None and t.is_floating_point() else t for t in arguments))
    eager = convlstm_reference(*arguments)
    for mine, theirs, truth in zip(convlstm_fused_fwd(LayerInputs(*arguments)), eager, exact, strict=True):
        allowed = 2 * (theirs - truth).abs().max() + torch.finfo(arguments[0].dtype).eps * (1 + truth.abs().max())
        assert mine.dtype == theirs.dtype
        assert (mine - truth).abs().max() <= allowed


SIZES = [
    ((1, 1, 1, 1, 1, 1), (1, 1)),
    ((3, 3, 3, 5, 5, 7), (3, 3)),
    # More channels than a block and than whole groups of 8; more pixels than a block; a rectangular kernel.
    ((2, 2, 3, 37, 9, 8), (3, 3)),
    ((2, 3, 40, 24, 3, 5), (5, 1)),
]


@pytest.mark.parametrize("options", [False, True], ids=["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("size", "kernel"), SIZES, ids=str)
def test_forward(size, kernel, dtype, options, device):
    if dtype == torch.float32 and device.type == "cuda":
        pytest.skip("refused there")
    assert_as_exact_as_reference(problem(dtype, device, size=size, kernel=kernel, options=options))


@pytest.mark.usefixtures("poisoned_memory")
def test_nothing_is_read_before_it_is_written(device):
    results = convlstm_fused_fwd(LayerInputs(*problem(torch.float16, device, size=(2, 3, 3, 5, 3, 5), kernel=(3, 3))))
    assert all(tensor.isfinite().all() for tensor in results)


def test_zero_batch(device):
    output, h, c = convlstm_fused_fwd(
        LayerInputs(*problem(torch.float16, device, size=(0, 2, 2, 3, 3, 3), kernel=(3, 3)))
    )
    assert output.shape == (0, 2, 3, 3, 3)
    assert h.shape == c.shape == (0, 3, 3, 3)


def test_columns_hold_the_gates_of_eight_channels_together():
    hidden, pitch = 11, 12
    packed = torch.arange(4 * hidden * pitch * 3.0).reshape(4 * hidden, pitch, 1, 3)
    columns = interleave_gates(packed)
    assert columns.shape == (3 * pitch, 4 * 16)
    for gate, channel, tap, entry in ((0, 0, 0, 0), (2, 7, 1, 5), (3, 10, 2, 11)):
        at = channel // GROUP * 4 * GROUP + gate * GROUP + channel % GROUP
        assert columns[tap * pitch + entry, at] == packed[gate * hidden + channel, entry, 0, tap]


@pytest.mark.gpu
def test_float32_is_refused_on_gpu(gpu):
    with pytest.raises(ValueError, match="weight must be float16 or bfloat16"):
        convlstm_fused_fwd(LayerInputs(*problem(torch.float32, gpu, size=SIZES[0][0], kernel=SIZES[0][1])))


@pytest.mark.gpu
@pytest.mark.parametrize("options", [False, True], ids=["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("size", "kernel"), [*SIZES, ((2, 4, 16, 64, 64, 64), (3, 3)), ((2, 2, 64, 128, 31, 33), (5, 5))], ids=str
)
def test_on_gpu(size, kernel, dtype, options, gpu):
    assert_as_exact_as_reference(problem(dtype, gpu, size=size, kernel=kernel, options=options))
