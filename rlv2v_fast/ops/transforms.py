"""Which transforms of torch.func and which modes of autograd are active. PyTorch has no public way to ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_differentiated(arguments: Sequence[Any]) -> bool:
    """Whether somebody may ask for a derivative of a call: autograd, forward mode or a transform of torch.func."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(v.requires_grad for v in arguments if isinstance(v, Tensor))


def is_mapped() -> bool:
    """Whether torch.vmap is active, under which PyTorch cannot ask a tensor whether it is channels-last."""
    if not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    return any(level.key() == functorch.TransformType.Vmap for level in stack)
