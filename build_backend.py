"""PEP 517 backend: setuptools, plus the rule that an installed torch is used and never downloaded a second time.

Under pip's build isolation torch cannot be imported, but the environment being installed into can still be found on
disk. Only where it has no torch does the build ask for one.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path

from setuptools import build_meta as _setuptools
from setuptools.build_meta import *  # noqa: F403  (a PEP 517 backend exposes every hook of the one it wraps)

HEADER = "include/torch/csrc/stable/library.h"
TORCH_REQUIREMENT = "torch>=2.11"


def find_torch() -> Path | None:
    """Folder of a torch whose headers hold the stable ABI, in the environment being installed into; None if none."""
    roots = [os.environ.get("RLV2V_FAST_TORCH")]
    roots += [os.path.join(sysconfig.get_path(scheme), "torch") for scheme in ("platlib", "purelib")]
    if venv := os.environ.get("VIRTUAL_ENV"):
        roots += [str(path) for path in Path(venv).glob("lib*/python*/site-packages/torch")]
        roots += [str(path) for path in Path(venv).glob("Lib/site-packages/torch")]
    if (spec := importlib.util.find_spec("torch")) and spec.origin:
        roots.append(str(Path(spec.origin).parent))
    return next((Path(root) for root in roots if root and (Path(root) / HEADER).exists()), None)


def _torch_if_missing(requirements: list[str]) -> list[str]:
    wanted = os.environ.get("RLV2V_FAST_BUILD", "auto") != "none"
    return [*requirements, TORCH_REQUIREMENT] if wanted and find_torch() is None else requirements


def get_requires_for_build_wheel(config_settings=None):
    return _torch_if_missing(_setuptools.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):
    return _torch_if_missing(_setuptools.get_requires_for_build_editable(config_settings))
