"""In a checkout, rlv2v_fast.kernels is the top-level kernels/ folder; an installed wheel carries that folder here."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "kernels")]
