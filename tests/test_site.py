"""The documentation as a site: its generated pages, its links, and that it builds without a warning."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlv2v_fast.train.config import LossConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site.py")
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


@pytest.mark.parametrize(
    ("text", "source", "page", "expected"),
    [
        ("[a](docs/usage.md#looks)", "README.md", "index.md", "[a](usage.md#looks)"),
        ("![a](docs/images/a.png)", "README.md", "index.md", "![a](images/a.png)"),
        ("[a](docs/notebook)", "README.md", "index.md", "[a](notebook/README.md)"),
        ("[a](../../CONTRIBUTING.md)", "docs/notebook/looks.md", "notebook/looks.md", "[a](../contributing.md)"),
        ("[the cases](../bench/cases.py)", "docs/speed.md", "speed.md", "the cases (`bench/cases.py`)"),
        ("[a](https://arxiv.org)", "README.md", "index.md", "[a](https://arxiv.org)"),
        ("[a](#start)", "README.md", "index.md", "[a](#start)"),
        ("```\n[a](b.md)\n```\n", "README.md", "index.md", "```\n[a](b.md)\n```\n"),
    ],
)
def test_links_lead_where_they_led(text, source, page, expected):
    assert site.relinked(text, source, page) == expected


def test_every_setting_is_on_its_page():
    page = site.settings(site.CONFIG.read_text())
    for prefix, kind in (("", TrainConfig), ("loss.", LossConfig)):
        for field in dataclasses.fields(kind):
            if not dataclasses.is_dataclass(field.default_factory):
                assert f"| `{prefix}{field.name}` |" in page


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs mkdocs-material, which make docs installs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "RL-V2V-GAN" in (tmp_path / "site/index.html").read_text()
