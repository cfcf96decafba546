"""In a checkout, rlv2v_fast.kernels is the top-level kernels/ folder; an installed wheel carries that folder here."""

from pathlib import Path

import torch  # noqa: F401  # as in rlv2v_fast/ops/__init__.py

__path__ = [str(Path(__file__).resolve().parents[2] / "kernels")]
