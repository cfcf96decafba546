"""Builds the package and its three native parts with ninja.

    rlv2v_fast/_ops_cpu.so    CPU operators, LibTorch stable ABI: one build serves every torch >= 2.11
    rlv2v_fast/_ops_cuda.so   CUDA operators, likewise; needs nvcc and a CUDA build of torch
    rlv2v_fast/_C.*.so        pybind11 module: build information and kernel cores for tests

RLV2V_FAST_BUILD chooses: auto (default) builds what it can and records why not for the rest, cpu leaves CUDA out, cuda
fails where CUDA cannot be built, none builds nothing. RLV2V_FAST_CUDA_ARCHS lists the architectures ("80;90;100").
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from build_backend import RECORD, find_torch, torch_version_field  # noqa: E402

MODES = ("auto", "cpu", "cuda", "none")
# The oldest torch whose stable ABI the operators are compiled against.
TORCH_TARGET = "0x020b000000000000"
CXX_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-g0", "-Wall", "-Wno-unknown-pragmas"]
# Vector code may reassociate nothing and must keep NaN: only errno and traps are given up.
SIMD_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
DEFAULT_CUDA_ARCHS = "80;90;100"


class BuildRefusedError(Exception):
    """A part cannot be built here; the message is the one sentence that says why."""


@dataclass(frozen=True)
class Object:
    source: Path
    name: str
    flags: list[str]
    rule: str = "cxx"


def version() -> str:
    text = (ROOT / "rlv2v_fast/__init__.py").read_text()
    return re.search(r'__version__ = "([^"]+)"', text).group(1)


def build_mode() -> str:
    mode = os.environ.get("RLV2V_FAST_BUILD", "auto")
    if mode not in MODES:
        raise SystemExit(f"RLV2V_FAST_BUILD must be one of {', '.join(MODES)}; got {mode!r}")
    return mode


def cxx() -> list[str]:
    """The words of the C++ compiler's command: CXX is a program, or one with arguments, as in "ccache g++"."""
    compiler = os.environ.get("CXX", "c++")
    words = [compiler] if shutil.which(compiler) else shlex.split(compiler)
    if not words or shutil.which(words[0]) is None:
        raise BuildRefusedError(f"no C++ compiler: {compiler!r} was not found on PATH")
    if platform.system() == "Windows":
        raise BuildRefusedError("the C++ operators are built with GCC or Clang, which this Windows build does not use")
    return words


def build_tool(name: str):
    """A build requirement, which is missing only where build isolation was turned off."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BuildRefusedError(f"the Python package {name} is not installed") from None


def torch_or_refuse() -> Path:
    torch = find_torch()
    if torch is None:
        raise BuildRefusedError("no torch >= 2.11 with headers was found; set RLV2V_FAST_TORCH to its folder")
    return torch


def nvcc_for(torch: Path) -> str:
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    elsewhere = os.pathsep.join(os.path.join(home, "bin") for home in homes if home)
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=elsewhere)
    if nvcc is None:
        raise BuildRefusedError("nvcc was not found on PATH, under CUDA_HOME or in /usr/local/cuda")
    if torch_version_field(torch, "cuda") is None:
        raise BuildRefusedError(f"torch {torch_version_field(torch, '__version__')} is not a CUDA build")
    return nvcc


def cuda_flags(nvcc: str, name: str) -> list[str]:
    """INCLUDES or LIBRARIES, flags for the toolkit's folders, told by nvcc: its own path may be that of a wrapper."""
    told = subprocess.run([nvcc, "--dryrun", "any.cu"], capture_output=True, text=True)
    found = re.search(rf"^#\$ {name}=(.*)$", told.stderr, re.MULTILINE)
    if found is None:
        raise BuildRefusedError(f"{nvcc} --dryrun did not tell its {name}")
    return shlex.split(found.group(1))


def cuda_arch_flags() -> list[str]:
    archs = os.environ.get("RLV2V_FAST_CUDA_ARCHS", DEFAULT_CUDA_ARCHS).split(";")
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    # PTX of the newest lets the driver compile for cards that do not exist yet.
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]


def isas() -> list[str]:
    return list(ISA_FLAGS) if platform.machine().lower() in ("x86_64", "amd64") else ["baseline"]


def in_rooms(*patterns: str) -> list[Path]:
    """Files of csrc/ that match one of the patterns, in a fixed order."""
    return sorted(path for pattern in patterns for path in (ROOT / "csrc").glob(pattern))


def object_name(source: Path) -> str:
    """The path in csrc/ with dots: two rooms may have a file of the same name."""
    return ".".join(source.relative_to(ROOT / "csrc").with_suffix("").parts)


def cpu_objects(torch: Path) -> list[Object]:
    """*_simd.cpp hold the loops and are compiled once per instruction set; the others may include torch."""
    common = [*CXX_FLAGS, f"-I{ROOT}/csrc"]
    if "avx512" in isas():
        common.append("-DRLV2V_X86=1")
    torch_flags = [f"-I{torch}/include", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
    objects = []
    for source in in_rooms("register_cpu.cpp", "common/*.cpp", "*/cpu/*.cpp"):
        if source.stem.endswith("_simd"):
            for isa in isas():
                flags = [*common, *SIMD_FLAGS, *ISA_FLAGS[isa], f"-DRLV2V_ISA={isa}"]
                objects.append(Object(source, f"{object_name(source)}.{isa}", flags))
        else:
            objects.append(Object(source, object_name(source), [*common, *torch_flags]))
    return objects


def cuda_objects(torch: Path) -> list[Object]:
    """*.cu hold kernels and launchers without a torch header; the *.cpp beside them call these."""
    common = [f"-I{ROOT}/csrc"]
    flags = [*CXX_FLAGS, *common, f"-I{torch}/include", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-DUSE_CUDA=1"]
    sources = in_rooms("register_cuda.cpp", "*/cuda/*.cpp")
    objects = [Object(source, object_name(source), flags) for source in sources]
    nvcc_flags = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC", *common, *cuda_arch_flags()]
    for source in in_rooms("*/cuda/*.cu"):
        objects.append(Object(source, f"{object_name(source)}.kernel", nvcc_flags, "nvcc"))
    return objects


def ninja_path(path: object) -> str:
    """A path as a build statement of ninja names it; ninja itself quotes it for the shell."""
    return re.sub(r"([$ :])", r"$\1", str(path))


def ninja_words(words: list[str]) -> str:
    """Words of a command as a variable of ninja holds them, quoted for the shell: paths may have spaces in them."""
    return shlex.join(words).replace("$", "$$")


def run_ninja(
    folder: Path, compilers: dict[str, list[str]], objects: list[Object], output: Path, link: list[str]
) -> None:
    ninja = build_tool("ninja")
    folder.mkdir(parents=True, exist_ok=True)
    commands = {rule: ninja_words(words) for rule, words in compilers.items()}
    rules = [
        f"rule cxx\n  command = {commands['cxx']} -MMD -MF $out.d $flags -c $in -o $out\n  depfile = $out.d\n"
        "  deps = gcc",
        f"rule link\n  command = {commands['cxx']} -shared $in -o $out $flags",
    ]
    if "nvcc" in commands:
        rules.append(
            f"rule nvcc\n  command = {commands['nvcc']} -MD -MF $out.d $flags -c $in -o $out\n  depfile = $out.d\n"
            "  deps = gcc"
        )
    edges = [
        f"build {ninja_path(item.name)}.o: {item.rule} {ninja_path(item.source)}\n  flags = {ninja_words(item.flags)}"
        for item in objects
    ]
    inputs = " ".join(f"{ninja_path(item.name)}.o" for item in objects)
    edges.append(f"build {ninja_path(output.name)}: link {inputs}\n  flags = {ninja_words(link)}")
    (folder / "build.ninja").write_text("\n".join(rules + edges) + "\n")
    command = [os.path.join(ninja.BIN_DIR, "ninja"), "-C", str(folder)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout)
    if result.returncode != 0:
        errors = [line for line in result.stdout.splitlines() if "error" in line]
        raise BuildRefusedError(f"compiling {output.name} failed: {errors[0] if errors else 'see the build log'}")
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(folder / output.name, output)


def undefined_symbols_flag() -> list[str]:
    return ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else []


class BuildNative(build_ext):
    """Builds each part, or records the reason it could not be built; RLV2V_FAST_BUILD says which may be missing."""

    def run(self) -> None:
        mode = build_mode()
        parts = {"ops_cpu": self.build_cpu, "bindings": self.build_bindings, "ops_cuda": self.build_cuda}
        if mode == "cuda":
            # What fails the build where it cannot be built comes first.
            parts = {"ops_cuda": parts.pop("ops_cuda"), **parts}
        info: dict[str, object] = {"mode": mode, "version": version()}
        for part, build in parts.items():
            info[part] = self.attempt(part, build, mode)
        path = self.target(RECORD)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(info, indent=1) + "\n")

    def attempt(self, part: str, build, mode: str) -> str:
        """'built', or the reason it was not."""
        if mode == "none" or (mode == "cpu" and part == "ops_cuda"):
            return f"left out by RLV2V_FAST_BUILD={mode}"
        try:
            build()
            return "built"
        except BuildRefusedError as refusal:
            if mode == "auto" or (mode == "cuda" and part != "ops_cuda"):
                print(f"rlv2v_fast: {part} is not built: {refusal}", file=sys.stderr)
                return str(refusal)
            raise SystemExit(f"RLV2V_FAST_BUILD={mode}: {part} cannot be built: {refusal}") from None

    def target(self, name: str) -> Path:
        base = ROOT if self.inplace else Path(self.build_lib)
        return base / "rlv2v_fast" / name

    def scratch(self, name: str) -> Path:
        return Path(self.build_temp).resolve() / name

    def build_cpu(self) -> None:
        torch = torch_or_refuse()
        link = [f"-L{torch}/lib", "-ltorch_cpu", *undefined_symbols_flag()]
        run_ninja(self.scratch("cpu"), {"cxx": cxx()}, cpu_objects(torch), self.target("_ops_cpu.so"), link)

    def build_cuda(self) -> None:
        torch = torch_or_refuse()
        nvcc = nvcc_for(torch)
        compilers = {"cxx": cxx(), "nvcc": [nvcc]}
        include = cuda_flags(nvcc, "INCLUDES")
        objects = [Object(o.source, o.name, [*o.flags, *include], o.rule) for o in cuda_objects(torch)]
        link = [f"-L{torch}/lib", "-ltorch_cpu", "-ltorch_cuda", *cuda_flags(nvcc, "LIBRARIES"), "-lcudart"]
        run_ninja(self.scratch("cuda"), compilers, objects, self.target("_ops_cuda.so"), link)

    def build_bindings(self) -> None:
        pybind11 = build_tool("pybind11")
        torch = find_torch()
        defines = {
            "RLV2V_VERSION": version(),
            "RLV2V_BUILT_WITH_TORCH": (torch_version_field(torch, "__version__") or "") if torch else "",
        }
        flags = [
            *CXX_FLAGS,
            f"-I{ROOT}/csrc",
            f"-I{pybind11.get_include()}",
            f"-I{sysconfig.get_path('include')}",
            *(f'-D{name}="{value}"' for name, value in defines.items()),
        ]
        objects = [Object(ROOT / "csrc/bindings.cpp", "bindings", flags)]
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        run_ninja(
            self.scratch("bindings"),
            {"cxx": cxx()},
            objects,
            self.target(f"_C{suffix}"),
            undefined_symbols_flag(),
        )

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.target("").glob("_*") if path.suffix in (".so", ".json")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


setup(
    version=version(),
    packages=[
        "rlv2v_fast",
        *(
            ".".join(path.parent.relative_to(ROOT).parts)
            for path in sorted((ROOT / "rlv2v_fast").rglob("*/__init__.py"))
        ),
    ],
    package_dir={"rlv2v_fast.kernels": "kernels"},
    package_data={
        "rlv2v_fast": ["py.typed", "train/presets/*.yaml", "train/report/page.html", "looks/prior.safetensors"],
        "rlv2v_fast.train": ["presets/*.yaml"],
        "rlv2v_fast.train.report": ["page.html"],
        "rlv2v_fast.looks": ["prior.safetensors"],
    },
    # One declared extension makes setuptools run build_ext and tag the wheel for this Python and platform.
    ext_modules=[Extension("rlv2v_fast._C", ["csrc/bindings.cpp"])],
    cmdclass={"build_ext": BuildNative},
)
