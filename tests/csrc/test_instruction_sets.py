"""No function that is compiled once per instruction set is shared between the copies.

The linker keeps one of several equal inline functions: it could be one that the processor cannot run.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(str(path.relative_to(CSRC)) for path in CSRC.glob("*/cpu/*_simd.cpp"))
TOOLS = shutil.which("c++"), shutil.which("nm")

pytestmark = pytest.mark.skipif(None in TOOLS or sys.platform != "linux", reason="no c++ and nm of Linux")


def shared_symbols(source: Path, folder: Path) -> list[str]:
    """The symbols of source, compiled for the baseline, that a linker may merge and that do not name the baseline."""
    compiler, nm = TOOLS
    target = folder / "simd.o"
    # With little optimization more functions stay out of line.
    flags = ["-std=c++17", "-O1", "-Wno-unknown-pragmas", f"-I{CSRC}", "-DRLV2V_ISA=baseline"]
    subprocess.run([compiler, *flags, "-c", str(source), "-o", str(target)], check=True)
    symbols = subprocess.run([nm, "--defined-only", str(target)], capture_output=True, text=True, check=True).stdout
    kinds_and_names = [line.split()[-2:] for line in symbols.splitlines()]
    # DW.ref.* are pointers of the exception handling, not code.
    return [n for kind, n in kinds_and_names if kind in "WVu" and "baseline" not in n and not n.startswith("DW.ref.")]


@pytest.mark.parametrize("source", SOURCES)
def test_no_symbol_is_shared(source, tmp_path):
    assert shared_symbols(CSRC / source, tmp_path) == []


def test_a_shared_symbol_is_found(tmp_path):
    source = tmp_path / "shared.cpp"
    source.write_text("#include <algorithm>\nvoid sorted(double* to, long n) { std::sort(to, to + n); }\n")
    assert shared_symbols(source, tmp_path)
