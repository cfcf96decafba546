"""What is published: the sdist holds the whole project, and every tool has one version."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# What only a checkout needs.
LEFT_OUT = (".ci/", ".github/")
# One fast test for each folder of tests/.
FAST_TESTS = [
    "tests/test_imports.py::test_every_layer_has_a_rule",
    "tests/bench/test_report.py::test_system_rows_show_their_figure",
    "tests/compatibility/test_modules.py::test_every_public_module_is_tried",
    "tests/csrc/test_bn_cuda.py::test_zero_batch",
    "tests/data/test_synthetic.py::test_the_domains_are_unpaired",
    "tests/kernels/test_convlstm_sequence.py::test_refusals",
    "tests/looks/test_cube.py::test_red_varies_fastest",
    "tests/losses/test_recurrent.py::test_l1_is_the_default",
    "tests/metrics/test_frame.py::test_psnr_follows_its_definition",
    "tests/models/test_q_network.py::test_the_head_is_linear",
    "tests/nn/test_norm.py::test_make_norm_knows_its_names",
    "tests/ops/test_bn_relu.py::test_zero_batch",
    "tests/rl/test_replay.py::test_the_state_is_a_copy",
    "tests/train/report/test_settings.py::test_what_differs_comes_first_and_everything_has_a_meaning",
    "tests/train/test_config.py::test_presets_load",
    "tests/trust/test_crashes.py::test_a_row_of_the_page_replaces_the_earlier_one",
]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split("\0")
    return [path for path in listed if path and (ROOT / path).exists()]


def build(kind: str, source: Path, out: Path) -> Path:
    """The sdist or the wheel of a source tree, without native parts."""
    program = f"import sys, build_backend; build_backend.build_{kind}(sys.argv[1])"
    environment = {**os.environ, "RLV2V_FAST_BUILD": "none"}
    command = [sys.executable, "-c", program, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=source, env=environment)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def unpacked(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    # Built from a copy: in a checkout setuptools would also take what an earlier build had listed in *.egg-info.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for path in tracked:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path)
    archive = build("sdist", source, out)
    with tarfile.open(archive) as tar:
        tar.extractall(out, filter="data")
    return out / archive.name.removesuffix(".tar.gz")


def test_the_sdist_holds_every_tracked_file(tracked, unpacked):
    missing = [path for path in tracked if not path.startswith(LEFT_OUT) and not (unpacked / path).exists()]
    assert missing == []


def test_a_wheel_of_the_sdist_holds_the_kernels(unpacked, tmp_path):
    # A copy, because setuptools builds inside the tree.
    source, out = shutil.copytree(unpacked, tmp_path / "source"), tmp_path / "wheel"
    out.mkdir()
    with zipfile.ZipFile(build("wheel", source, out)) as wheel:
        for path in (ROOT / "kernels").glob("*.py"):
            assert wheel.read(f"rlv2v_fast/kernels/{path.name}") == path.read_bytes()


def test_the_sdist_can_be_tested(tracked, unpacked):
    folders = {Path(path).parent for path in tracked if re.match(r"tests/.*test_\w+\.py$", path)}
    assert {Path(test).parent for test in FAST_TESTS} == folders
    for library in (ROOT / "rlv2v_fast").glob("*.so"):
        shutil.copy2(library, unpacked / "rlv2v_fast")
    # What tests compile is kept there, named by the contents of its sources.
    (ROOT / "build").mkdir(exist_ok=True)
    (unpacked / "build").symlink_to(ROOT / "build")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *FAST_TESTS]
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=unpacked, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_commits_are_formatted_by_the_pinned_tools():
    pinned = dict(re.findall(r"^(\S+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {Path(hook["repo"]).name: hook["rev"] for hook in hooks}
    assert revisions["ruff-pre-commit"] == f"v{pinned['ruff']}"
    assert revisions["mirrors-clang-format"] == f"v{pinned['clang-format']}"
