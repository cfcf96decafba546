"""Whether a submodule is as PyTorch made it, so that a fused operator may stand in for calling it.

A fused operator reads a submodule's parameters and never calls it. That is the same only while nobody has changed what
a call does: by hooks (of this module, or of all modules), a reparametrization (old ones are hooks, new ones change the
class, as FSDP2 does), a subclass, or a method set anew on the instance or its class. Every fused path asks here, and
calls the module where it is not plain.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules import module as torch_module

# What a call runs, in PyTorch's modules and in this package's.
_METHODS = ("forward", "_conv_forward", "stream", "sequence")
# Those methods of each kind of module, as they were when it was registered.
_originals: dict[type[nn.Module], tuple[tuple[str, object], ...]] = {}


def register_plain(kind: type[nn.Module]) -> type[nn.Module]:
    """Remember what a call of kind runs as of now, for why_not_plain. Returns kind: a decorator."""
    _originals[kind] = tuple((name, getattr(kind, name)) for name in _METHODS if hasattr(kind, name))
    return kind


def why_not_plain(module: nn.Module, *kinds: type[nn.Module]) -> str | None:
    """Why only calling module will do; None where its parameters say everything about a call.

    It costs a microsecond or two: it is asked at every call.

    Args:
        module: any module.
        kinds: the classes, given to register_plain before, whose parameters the caller can read.
    """
    kind = type(module)
    if kind not in kinds:
        return f"a {kind.__name__} is no plain {' or '.join(each.__name__ for each in kinds)}"
    # PyTorch has no public way to ask for hooks; Module.__call__ itself reads these, too.
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return f"the {kind.__name__} has hooks, which only calling it runs"
    own = module.__dict__
    if "forward" in own or "_conv_forward" in own or "stream" in own or "sequence" in own:
        return f"the {kind.__name__} has a method of its own"
    # A compiler guards the module's own state; that of classes and of all modules it takes as given.
    if torch.compiler.is_compiling():
        return None
    if (
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    ):
        return "hooks of all modules are registered, which only calling a module runs"
    for name, original in _originals[kind]:
        if getattr(kind, name) is not original:
            return f"a method of the class {kind.__name__} was replaced"
    return None


for _kind in (nn.Conv2d, nn.BatchNorm3d, nn.Identity):
    register_plain(_kind)
