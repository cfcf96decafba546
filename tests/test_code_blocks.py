"""Blocks of code in the documentation: Python runs, and commands are ones that the programs take."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch

from rlv2v_fast import ConvLSTM, cli, convert
from rlv2v_fast.models.rlv2vgan import RLV2VGAN, ModelConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Programs of others, whose flags are not tried.
OTHERS = {"pip", "git", "cd", "ffmpeg", "ffplay", "apt"}


def blocks(*kinds):
    """The blocks of each page that has some of these kinds."""
    found = {page: [code for kind, code in BLOCK.findall(page.read_text()) if kind in kinds] for page in PAGES}
    return [pytest.param(each, id=str(page.relative_to(ROOT))) for page, each in found.items() if each]


def commands(block):
    """The words of each command, without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|\|", line):
            if words := shlex.split(part, comments=True):
                yield words


def after_diff(block):
    """The code after a diff."""
    return "\n".join(line[1:] for line in block.splitlines() if not line.startswith("-"))


@pytest.fixture
def known(tmp_path, monkeypatch):
    """The names and files that the blocks take for granted, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    RLV2VGAN(ModelConfig(width=2, critics=0)).save_pretrained(tmp_path / "runs/night/best/step_00003200")
    torch.save(ConvLSTM(3, 4, 3, num_layers=1).state_dict(), "convlstm.pt")
    first, second = convert.to_keras(ConvLSTM(3, [4, 4], 3, num_layers=2))
    return {"torch": torch, "video": torch.zeros(1, 2, 3, 8, 8), "day": torch.zeros(2, 3, 16, 16)} | {
        "ConvLSTM": ConvLSTM,
        "first": first,
        "second": second,
    }


# Its Python needs clips: tests/test_walkthrough.py runs it.
WALKTHROUGH = "docs/walkthrough.md"


@pytest.mark.parametrize("code", [each for each in blocks("python") if each.id != WALKTHROUGH])
def test_python_runs_from_block_to_block(code, known):
    for block in code:
        if "sys.argv" in block:  # a script, which tests/models/test_step.py runs
            continue
        if "ConvLSTM(16" in block:
            known["video"] = torch.zeros(2, 10, 16, 8, 8)
        if "to_keras" in block:
            known["video"] = torch.zeros(1, 2, 8, 8, 3)
        exec(block, known)


@pytest.mark.parametrize("code", blocks("diff"))
def test_diffs_lead_to_code_that_runs(code, known):
    for block in code:
        exec(after_diff(block), known)


@pytest.mark.parametrize("code", blocks("sh"))
def test_commands_are_taken(code):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in (words for block in code for words in commands(block)):
        program = words[0].removeprefix(".venv/bin/")
        if "rlv2v" in program or "rlv2v)" in words:
            start = 1 if "rlv2v" in program else words.index("rlv2v)") + 1
            cli.parse(words[start:])
        elif program == "make":
            assert set(words[1:]) <= targets, words
        elif program == "python" and words[1] == "-m":
            found = importlib.util.find_spec(words[2])
            main = importlib.util.find_spec(f"{words[2]}.__main__") if found.submodule_search_locations else found
            source = Path(main.origin).read_text()
            assert all(f'"{word}"' in source for word in words if word.startswith("--")), words
        elif program == "python":
            assert (ROOT / words[1]).exists(), words
        else:
            assert program in OTHERS, words


@pytest.mark.parametrize("code", blocks(""))
def test_a_block_of_commands_says_that_it_is_one(code):
    for block in code:
        assert not re.match(r"(rlv2v|pip|make|python|torchrun|git) ", block), block
