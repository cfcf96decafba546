"""Every operator in plain PyTorch: the specification and the fallback."""

import torch  # noqa: F401  # as in rlv2v_fast/ops/__init__.py
