"""What the site has beyond the files of this folder: hooks that mkdocs.yml names.

The first page is README.md, and CONTRIBUTING.md and CHANGELOG.md have pages, too. The page of settings is made from the
dataclasses in rlv2v_fast/train/config.py. Links are changed accordingly; of a link to any other file, its text is left.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Files outside docs/ that are pages.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
CONFIG = ROOT / "rlv2v_fast/train/config.py"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=relinked((ROOT / source).read_text(), source, page)))
    files.append(File.generated(config, "settings.md", content=settings(CONFIG.read_text())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of a page in docs/."""
    path = page.file.src_uri
    return markdown if path in {*PAGES.values(), "settings.md"} else relinked(markdown, f"docs/{path}", path)


def relinked(text: str, source: str, page: str) -> str:
    """The text of a file, with links as its page needs them.

    Args:
        source: the file, relative to the repository.
        page: its page, relative to the site.
    """

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        path, _, anchor = target.partition("#")
        if ":" in path or not path:
            return match[0]
        inside = os.path.normpath(os.path.join(os.path.dirname(source), path))
        if inside in PAGES:
            there = PAGES[inside]
        elif inside.startswith("docs/"):
            there = inside.removeprefix("docs/")
            if (ROOT / inside).is_dir():
                there += "/README.md"
        else:
            return f"{words} (`{inside}`)" if words != inside else f"`{inside}`"
        relative = os.path.relpath(there, os.path.dirname(page) or ".")
        return f"{mark}[{words}]({relative}{'#' + anchor if anchor else ''})"

    # Every second part is a block of code.
    parts = _FENCE.split(text)
    return "".join(part if index % 2 else _LINK.sub(link, part) for index, part in enumerate(parts))


def settings(code: str) -> str:
    """The page of settings: a table for each dataclass of the module with this code, the run's own first."""
    classes = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    tables = {node.name: _rows(node) for node in classes}
    order = sorted((name for name in tables if tables[name]), key=lambda name: name != "TrainConfig")
    lines = [
        "# Settings",
        "",
        "Every setting of `rlv2v train`, as a flag (`--size 128`, `--loss.cycle 1`) or in a YAML file that `--config`",
        "names. Presets are such files.",
    ]
    for name in order:
        group = name.removesuffix("Config").lower()
        prefix = "" if name == "TrainConfig" else f"{group}."
        lines += [
            "",
            f"## {'The run' if not prefix else f'`{group}`'}",
            "",
            "| setting | values | default | |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| `{prefix}{field}` | `{kind}` | `{default}` | {text} |" for field, kind, default, text in tables[name]
        ]
    return "\n".join(lines) + "\n"


def _rows(node: ast.ClassDef) -> list[tuple[str, str, str, str]]:
    """Name, type, default and description of the fields of a dataclass that have a description."""
    rows = []
    for field, text in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)):
            continue
        if not isinstance(text.value, ast.Constant) or not isinstance(text.value.value, str):
            continue
        default = "" if field.value is None else ast.unparse(field.value)
        if default.startswith("field("):
            continue
        words = " ".join(text.value.value.split()).replace("|", "\\|")
        rows.append((field.target.id, ast.unparse(field.annotation).replace("|", "or"), default, words))
    return rows
