"""Which transforms of torch.func and which modes of autograd are active. PyTorch has no public way to ask."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether a transform of torch.func or forward mode is active, of which torch.library's autograd knows nothing."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_mapped() -> bool:
    """Whether torch.vmap is active, under which PyTorch cannot ask a tensor whether it is channels-last."""
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    return any(level.key() == functorch.TransformType.Vmap for level in stack)
