"""Frames and parameters of pixel_map, and its results with gradients, for the tests of every backend."""

import torch
import torch.nn.functional as F

from rlv2v_fast.ops.pixel_map import PixelMapParameters, pixel_map
from rlv2v_fast.reference.pixel_map import fourier_features_reference


class Parameters(PixelMapParameters):
    """PixelMapParameters that convert together."""

    def double(self):
        return Parameters(*(None if t is None else t.double() for t in self))


def draw(shape, features, hidden, levels, *, device="cpu", dtype=torch.float32):
    """Frames whose colours go a little beyond [-1, 1], and parameters that keep activations near one.

    levels: of the table, 0 for none.
    """

    def values(*size, scale=1.0):
        return (scale * torch.randn(size, dtype=torch.float64)).to(device, dtype)

    channels = shape[1]
    frames = (2.2 * torch.rand(shape, dtype=torch.float64) - 1.1).to(device, dtype)
    inputs = channels + 2 + features
    matrices = [
        (features, channels + 2, 4.0),
        (hidden, inputs, 1.5 * inputs**-0.5),
        (hidden, hidden, hidden**-0.5),
        (hidden, hidden, hidden**-0.5),
        (2 * channels, hidden, 0.5 * hidden**-0.5),
    ]
    parameters = []
    for rows, columns, scale in matrices:
        parameters += [values(rows, columns, scale=scale), values(rows, scale=0.3)]
    return frames, Parameters(*parameters, values(3, levels, levels, levels, scale=0.2) if levels else None)


def away_from_kinks(frames, parameters, slope):
    """Random gradients of a result, zero for pixels with a hidden value whose sign rounding may turn."""
    p = parameters.double()
    x = fourier_features_reference(frames.double(), p.project, p.project_bias)
    smooth = torch.ones_like(x[:, :1], dtype=torch.bool)
    for weight, bias in ((p.weight1, p.bias1), (p.weight2, p.bias2), (p.weight3, p.bias3)):
        x = F.conv2d(x, weight[:, :, None, None], bias)
        smooth &= (x.abs() > 1e-4).all(1, keepdim=True)
        x = F.leaky_relu(x, slope)
    return torch.randn(frames.shape, dtype=torch.float64, device=frames.device) * smooth


def gradients(frames, parameters, constants, *, backend, needed="frames parameters table", grad=None):
    """The result, and the gradients of what is needed, in order."""
    frames = frames.detach().clone().requires_grad_("frames" in needed)
    *matrices, table = (None if t is None else t.detach().clone() for t in parameters)
    for tensor in matrices:
        tensor.requires_grad_("parameters" in needed)
    if table is not None:
        table.requires_grad_("table" in needed)
    y = pixel_map(frames, PixelMapParameters(*matrices, table), constants, backend=backend)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [t for t in (frames, *matrices, table) if t is not None and t.requires_grad]
    return y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.device, y.dtype))
