"""Loads the native parts that setup.py built, and knows why one is missing."""

from __future__ import annotations

import functools
import importlib
import json
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).parent


@functools.cache
def build_record() -> dict[str, str]:
    """What the build wrote: "built", or the reason not, for ops_cpu, ops_cuda and bindings; empty if nothing was."""
    path = _FOLDER / "_build_info.json"
    return json.loads(path.read_text()) if path.exists() else {}


@functools.cache
def _load(library: str) -> str | None:
    """Load one operator library; None when loaded, else the reason it is not there."""
    path = _FOLDER / f"_{library}.so"
    if not path.exists():
        return build_record().get(library, "the package was used from a checkout without building it")
    import torch

    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} does not load: {str(error).splitlines()[0]}"
    return None


def why_not_cpu() -> str | None:
    """None when the C++ CPU operators are loaded, else one sentence saying why not."""
    return _load("ops_cpu")


def why_not_cuda() -> str | None:
    """None when the CUDA operators are loaded, else one sentence saying why not."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    return _load("ops_cuda")


def bindings() -> ModuleType | None:
    """The pybind11 module rlv2v_fast._C, or None where it was not built."""
    try:
        return importlib.import_module("rlv2v_fast._C")
    except ImportError:
        return None
