"""The build: what it finds, what it records, and that a wheel carries everything."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch

from rlv2v_fast import extension

ROOT = Path(__file__).resolve().parents[1]


def backend(code, **environment):
    """Run code with build_backend imported, in a Python that cannot import torch."""
    script = (
        "import sys, importlib.util; sys.modules['torch'] = None\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else real(name, *a)\n"
        f"import build_backend as b\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_torch_is_found_without_importing_it():
    assert Path(backend("print(b.find_torch())")).samefile(Path(torch.__file__).parent)


def test_torch_is_asked_for_only_where_there_is_none(tmp_path):
    assert "torch" not in backend("print(b.get_requires_for_build_wheel())")
    nowhere = "b.sysconfig.get_path = lambda name: '/nonexistent'; print(b.get_requires_for_build_wheel())"
    assert "torch>=2.11" in backend(nowhere, VIRTUAL_ENV=str(tmp_path))
    assert "torch" not in backend(nowhere, VIRTUAL_ENV=str(tmp_path), RLV2V_FAST_BUILD="none")


def test_the_variable_names_a_torch(tmp_path):
    header = tmp_path / "include/torch/csrc/stable/library.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert backend("print(b.find_torch())", RLV2V_FAST_TORCH=str(tmp_path)) == str(tmp_path)


def build(tmp_path, mode):
    """Build the native parts into tmp_path; (exit status, output, record)."""
    command = [
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        str(tmp_path),
        "--build-temp",
        str(tmp_path / "t"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "RLV2V_FAST_BUILD": mode}
    )
    record = tmp_path / "rlv2v_fast/_build_info.json"
    return done.returncode, done.stdout + done.stderr, json.loads(record.read_text()) if record.exists() else None


def test_mode_none_builds_nothing_and_records_it(tmp_path):
    status, _, record = build(tmp_path, "none")
    assert status == 0
    assert record["ops_cpu"] == record["ops_cuda"] == "left out by RLV2V_FAST_BUILD=none"
    assert not list(tmp_path.rglob("*.so"))


def test_an_unknown_mode_is_named(tmp_path):
    status, output, _ = build(tmp_path, "gpu")
    assert status != 0
    assert "RLV2V_FAST_BUILD must be one of auto, cpu, cuda, none; got 'gpu'" in output


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_mode_cuda_fails_in_one_sentence_without_a_cuda_torch(tmp_path):
    status, output, _ = build(tmp_path, "cuda")
    assert status != 0
    last = output.strip().splitlines()[-1]
    assert last.startswith("RLV2V_FAST_BUILD=cuda: ops_cuda cannot be built: ")
    assert "nvcc was not found" in last or "is not a CUDA build" in last


def test_the_cuda_toolkits_folders_are_those_that_nvcc_names(tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("""#!/bin/sh
echo '#$ INCLUDES="-I/opt/cuda/bin/../include"  ' >&2
echo '#$ LIBRARIES=  "-L/opt/cuda/lib/stubs" "-L/opt/a b/lib"' >&2
""")
    nvcc.chmod(0o755)
    program = f"""if True:
        import setuptools
        setuptools.setup = lambda **_: None
        import setup
        print(setup.cuda_flags({str(nvcc)!r}, "INCLUDES") + setup.cuda_flags({str(nvcc)!r}, "LIBRARIES"))
        try:
            setup.cuda_flags("true", "INCLUDES")
        except setup.BuildRefusedError as refusal:
            print(refusal)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    found, refusal = done.stdout.splitlines()
    assert found == str(["-I/opt/cuda/bin/../include", "-L/opt/cuda/lib/stubs", "-L/opt/a b/lib"])
    assert refusal == "true --dryrun did not tell its INCLUDES"


def test_every_native_source_is_compiled_under_a_name_of_its_own():
    program = """if True:
        import pathlib, setuptools
        setuptools.setup = lambda **_: None
        import setup
        for objects in (setup.cpu_objects(pathlib.Path("torch")), setup.cuda_objects(pathlib.Path("torch"))):
            names = [item.name for item in objects]
            assert len(set(names)) == len(names), sorted(names)
            for item in objects:
                print(item.source.relative_to(setup.ROOT))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    sources = {str(path.relative_to(ROOT)) for suffix in ("cpp", "cu") for path in (ROOT / "csrc").rglob(f"*.{suffix}")}
    assert set(done.stdout.split()) == sources - {"csrc/bindings.cpp"}


COMPILER = """#!/bin/sh
for word; do printf '%s\\n' "$word"; done >> "$(dirname "$0")/words"
while [ "$1" != -o ]; do shift; done
touch "$2" "$2.d"
"""


def test_paths_with_spaces_reach_the_compiler_whole(tmp_path):
    root = tmp_path / "my $HOME & it's" / "a: checkout"
    for name in ("setup.py", "build_backend.py", "csrc", "rlv2v_fast/__init__.py", "kernels/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    torch_home = root / "torch"
    for folder in ("include", "lib", "version.py"):
        torch_home.mkdir(exist_ok=True)
        (torch_home / folder).symlink_to(Path(torch.__file__).parent / folder)
    compiler = root / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    changes = {"RLV2V_FAST_BUILD": "cpu", "CXX": str(compiler), "RLV2V_FAST_TORCH": str(torch_home)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, **changes})
    assert done.returncode == 0, done.stdout
    record = json.loads((root / "rlv2v_fast/_build_info.json").read_text())
    assert (record["ops_cpu"], record["bindings"]) == ("built", "built")
    words = (root / "words").read_text().splitlines()
    assert set(map(str, (root / "csrc").rglob("*/cpu/*.cpp"))) <= set(words)
    assert {f"-I{root}/csrc", f"-I{torch_home}/include", f"-L{torch_home}/lib"} <= set(words)
    assert f'-DRLV2V_VERSION="{record["version"]}"' in words


def test_what_a_build_was_to_make_and_did_not_is_told():
    script = """if True:
        built = {"ops_cpu": "built", "ops_cuda": "nvcc was not found"}
        print(b.shortfall(built, False), len(b.shortfall(built, True)))
        print(b.shortfall({**built, "ops_cpu": "left out by RLV2V_FAST_BUILD=none"}, False))
        print(b.shortfall({**built, "ops_cpu": "no C++ compiler"}, False))
    """
    told = backend(textwrap.dedent(script.replace("if True:", "")))
    assert told.splitlines() == [
        "[] 1",
        "[]",
        "['the C++ operators were not built, and PyTorch does their work, more slowly: no C++ compiler']",
    ]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_an_installer_that_hides_a_build_shows_its_shortfall():
    record = {"ops_cpu": "no C++ compiler", "ops_cuda": "built"}
    hook = f"import build_backend as b; print('hidden'); b._tell_shortfall({record})"
    installer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hook!r}], capture_output=True)"
    done = subprocess.run([sys.executable, "-c", installer], capture_output=True, text=True, cwd=ROOT, check=True)
    assert (done.stdout, done.stderr.count("no C++ compiler"), done.stderr.count("hidden")) == ("", 1, 0)


def test_a_missing_library_has_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(extension, "_FOLDER", tmp_path)
    extension._load.cache_clear()
    extension.build_record.cache_clear()
    try:
        assert "without building it" in extension.why_not_cpu()
        (tmp_path / "_build_info.json").write_text('{"ops_cpu": "no C++ compiler"}')
        extension._load.cache_clear()
        extension.build_record.cache_clear()
        assert extension.why_not_cpu() == "no C++ compiler"
        (tmp_path / "_ops_cpu.so").write_bytes(b"not a library")
        extension._load.cache_clear()
        assert "_ops_cpu.so does not load" in extension.why_not_cpu()
    finally:
        extension._load.cache_clear()
        extension.build_record.cache_clear()


@pytest.mark.slow
def test_a_wheel_carries_libraries_kernels_and_presets(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    # A copy, because setuptools builds inside the tree.
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    done = subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"rlv2v_fast/_ops_cpu.so", "rlv2v_fast/_build_info.json", "rlv2v_fast/py.typed"} <= names
    assert "rlv2v_fast/train/presets/figure1-cpu.yaml" in names
    assert "rlv2v_fast/train/report/page.html" in names
    assert any(name.startswith("rlv2v_fast/_C.") for name in names)
    assert "rlv2v_fast/kernels/__init__.py" in names
    assert not any(name.startswith(("kernels/", "tests/", "csrc/", "bench/", "build_backend")) for name in names)
