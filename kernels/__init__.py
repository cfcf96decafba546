"""Triton kernels and their launchers. They know nothing of autograd or dispatch; rlv2v_fast.ops does."""

import torch  # noqa: F401  # as in rlv2v_fast/ops/__init__.py
