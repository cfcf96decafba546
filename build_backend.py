"""PEP 517 backend: setuptools, plus two rules. An installed torch is used and never downloaded a second time, and a
build that falls short says so.

Under pip's build isolation torch cannot be imported, but the environment being installed into can still be found on
disk. Only where it has no torch does the build ask for one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import sysconfig
import zipfile
from contextlib import suppress
from pathlib import Path

from setuptools import build_meta as _setuptools
from setuptools.build_meta import *  # noqa: F403  (a PEP 517 backend exposes every hook of the one it wraps)

HEADER = "include/torch/csrc/stable/library.h"
RECORD = "_build_info.json"
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


def torch_version_field(torch: Path, field: str) -> str | None:
    """A field of torch/version.py, read as text because torch may not be importable here."""
    match = re.search(rf"^{field}\b[^=]*= *'([^']*)'", (torch / "version.py").read_text(), re.MULTILINE)
    return match.group(1) if match else None


def _torch_if_missing(requirements: list[str]) -> list[str]:
    wanted = os.environ.get("RLV2V_FAST_BUILD", "auto") != "none"
    return [*requirements, TORCH_REQUIREMENT] if wanted and find_torch() is None else requirements


def get_requires_for_build_wheel(config_settings=None):
    return _torch_if_missing(_setuptools.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings=None):
    return _torch_if_missing(_setuptools.get_requires_for_build_editable(config_settings))


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = _setuptools.build_wheel(wheel_directory, config_settings, metadata_directory)
    with zipfile.ZipFile(Path(wheel_directory) / name) as wheel, suppress(KeyError):
        _tell_shortfall(json.loads(wheel.read(f"rlv2v_fast/{RECORD}")))
    return name


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = _setuptools.build_editable(wheel_directory, config_settings, metadata_directory)
    with suppress(FileNotFoundError):
        _tell_shortfall(json.loads((Path(__file__).parent / "rlv2v_fast" / RECORD).read_text()))
    return name


def shortfall(record: dict[str, str], cuda: bool) -> list[str]:
    """What a build left out that it was to build, with the reason, a sentence each.

    Args:
        record: what setup.py wrote.
        cuda: whether the torch that it was built for is a CUDA build.
    """
    parts = {"ops_cpu": "C++ operators"} | ({"ops_cuda": "CUDA operators"} if cuda else {})
    return [
        f"the {name} were not built, and PyTorch does their work, more slowly: {record[part]}"
        for part, name in parts.items()
        if record[part] != "built" and not record[part].startswith("left out by")
    ]


def _tell_shortfall(record: dict[str, str]) -> None:
    torch = find_torch()
    for sentence in shortfall(record, torch is not None and torch_version_field(torch, "cuda") is not None):
        _tell(f"\nrlv2v_fast: {sentence} (rlv2v info says so, too; mend it and install again)\n")


def _tell(text: str) -> None:
    """Write to whoever runs the installer, which shows nothing that a build prints unless it fails."""
    for place in (*_errors_of_parent(), "/dev/tty"):
        with suppress(OSError), open(place, "a") as file:
            file.write(text)
            return
    sys.stderr.write(text)


def _errors_of_parent() -> list[str]:
    """Where the installer writes errors, on Linux. Not a file that it does not append to: its next line would go over
    ours.
    """
    process = Path("/proc", str(os.getppid()))
    with suppress(OSError):
        flags = re.search(r"^flags:\s*([0-7]+)$", (process / "fdinfo" / "2").read_text(), re.MULTILINE)
        appends = flags is not None and int(flags.group(1), 8) & os.O_APPEND
        if appends or not (process / "fd" / "2").is_file():
            return [str(process / "fd" / "2")]
    return []
