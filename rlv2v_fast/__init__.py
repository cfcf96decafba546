"""rlv2v_fast: fused ConvLSTM and residual-block kernels for PyTorch, and RL-V2V-GAN built on them."""

from __future__ import annotations

import importlib
import logging
import threading
from typing import TYPE_CHECKING, Any

from rlv2v_fast.waiting import after_import

if TYPE_CHECKING:
    from rlv2v_fast.models.rlv2vgan import RLV2VGAN
    from rlv2v_fast.nn.blocks import RPB, URB, R
    from rlv2v_fast.nn.convlstm import ConvLSTM, ConvLSTMCell
    from rlv2v_fast.nn.norm import SyncBatchNorm

__version__ = "0.1.0"
__all__ = ["RLV2VGAN", "RPB", "URB", "ConvLSTM", "ConvLSTMCell", "R", "SyncBatchNorm", "__version__"]

_HOMES = {
    "ConvLSTM": "rlv2v_fast.nn.convlstm",
    "ConvLSTMCell": "rlv2v_fast.nn.convlstm",
    "R": "rlv2v_fast.nn.blocks",
    "RPB": "rlv2v_fast.nn.blocks",
    "URB": "rlv2v_fast.nn.blocks",
    "SyncBatchNorm": "rlv2v_fast.nn.norm",
    "RLV2VGAN": "rlv2v_fast.models.rlv2vgan",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `rlv2v info` and --help start without building anything."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rlv2v_fast' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _register_operators() -> None:
    try:
        importlib.import_module("rlv2v_fast.ops.all")
    except Exception as error:  # whatever it is, it must not make the import of torch fail
        if type(error).__name__ == "_DeadlockError":
            # Another thread is importing a part of this package and waits for torch. It goes on once torch is there.
            threading.Thread(target=_register_operators).start()
        else:
            logging.getLogger(__name__).warning("no operator could be registered with torch: %s", error)


# Programs saved by torch.export, torch.jit or AOTInductor name operators, which must be registered when one is loaded.
# This package itself does not import torch: the command line sets variables that torch reads.
after_import("torch", _register_operators)
