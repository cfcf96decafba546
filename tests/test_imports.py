"""Imports go downward only, and importing the package stays light; both judged from outside."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rlv2v_fast"

# What each layer may import of the package.
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "hashes": {"errors"},
    "waiting": set(),
    "machine": set(),
    "domains": set(),
    "looks": {"looks", "files", "errors"},
    "extension": set(),
    "kernels": {"kernels"},
    "reference": {"reference"},
    "ops": {"ops", "reference", "kernels", "extension", "waiting", "rlv2v_fast"},
    "nn": {"nn", "ops"},
    "convert": {"nn"},
    "models": {"models", "nn", "looks", "domains", "files", "hashes", "errors"},
    "losses": {"losses"},
    "metrics": {"metrics", "errors"},
    "data": {"data", "files", "errors"},
    "rl": {"rl", "losses", "domains"},
    "train": {
        *("train", "models", "nn", "losses", "rl", "data", "metrics", "looks", "domains", "files", "hashes", "errors"),
    },
    "flags": {"errors"},
    "cli": {"train", "models", "ops", "data", "metrics", "looks", "files", "flags", "errors", "rlv2v_fast"},
    "__main__": {"cli", "machine", "train"},
}
# Third-party packages only some layers may see.
GUARDED = {
    "triton": {"kernels"},
    "av": {"data"},
    "tyro": {"cli", "flags"},
    "yaml": {"train"},
    "PIL": {"data", "train", "looks"},
}


def sources() -> list[tuple[str, Path]]:
    files = [p for p in PACKAGE.rglob("*.py") if "kernels" not in p.parts]
    layered = [(p.relative_to(PACKAGE).parts[0].removesuffix(".py"), p) for p in files if p.parent != PACKAGE]
    layered += [(p.stem, p) for p in files if p.parent == PACKAGE and p.stem != "__init__"]
    return layered + [("kernels", p) for p in (ROOT / "kernels").glob("*.py")]


def names_of(node: ast.AST) -> set[str]:
    """What a statement imports: modules, and names as `module.name`."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def imported(path: Path) -> set[str]:
    """What a file imports, in functions and under TYPE_CHECKING too."""
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in names_of(node)}


def modules(root: Path) -> dict[str, Path]:
    """Files by the name that others import them under; kernels/ is rlv2v_fast.kernels."""
    found = {}
    for top in ("rlv2v_fast", "kernels", "bench", "tests"):
        for path in (root / top).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            parts = ("rlv2v_fast", *parts) if top == "kernels" else parts
            found.setdefault(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path)
    return found


def circles(root: Path) -> list[list[str]]:
    """Every circle that a search through the imports below root meets, as the modules on it, in order.

    It is empty where there is no circle. `from rlv2v_fast.data import clips` counts as an import of the module clips,
    `from rlv2v_fast.data import Domain` as one of the package; packages on the way to a module do not count.
    """
    files = modules(root)
    graph = {
        name: sorted({each if each in files else each.rpartition(".")[0] for each in imported(path)} & files.keys())
        for name, path in files.items()
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            found.append(way[way.index(name) :])
        elif name not in done:
            for other in graph[name]:
                visit(other, [*way, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def test_no_import_circle():
    assert circles(ROOT) == []


@pytest.mark.parametrize(
    ("link", "circle"),
    [
        ("import rlv2v_fast.b", ["rlv2v_fast.a", "rlv2v_fast.b", "rlv2v_fast.kernels.k"]),
        ("from rlv2v_fast import b", ["rlv2v_fast.a", "rlv2v_fast.b", "rlv2v_fast.kernels.k"]),
        ("def f():\n    from rlv2v_fast.b import x", ["rlv2v_fast.a", "rlv2v_fast.b", "rlv2v_fast.kernels.k"]),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rlv2v_fast.b import x",
            ["rlv2v_fast.a", "rlv2v_fast.b", "rlv2v_fast.kernels.k"],
        ),
        ("from bench import x", ["bench", "rlv2v_fast.a"]),
        ("from bench import c", None),
        ("import json", None),
    ],
)
def test_a_planted_import_circle_is_found(tmp_path, link, circle):
    files = {
        "rlv2v_fast/a.py": link,
        "rlv2v_fast/b.py": "import rlv2v_fast.kernels.k",
        "kernels/k.py": "from rlv2v_fast.a import y",
        "bench/__init__.py": "import rlv2v_fast.a",
        "bench/c.py": "x = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert circles(tmp_path) == ([] if circle is None else [circle])


@pytest.mark.parametrize(("layer", "path"), sources(), ids=lambda value: getattr(value, "name", value))
def test_a_layer_imports_only_the_layers_below_it(layer, path):
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "rlv2v_fast":
            assert (parts[1] if len(parts) > 1 else "rlv2v_fast") in ALLOWED[layer], f"{path} imports {name}"
        elif parts[0] in GUARDED:
            assert layer in GUARDED[parts[0]], f"{path} imports {name}"


def test_every_layer_has_a_rule():
    assert {layer for layer, _ in sources()} == set(ALLOWED)


@pytest.mark.parametrize("module", ["rlv2v_fast", "rlv2v_fast.nn.convlstm", "rlv2v_fast.models.rlv2vgan"])
def test_importing_the_package_leaves_triton_and_av_out(module):
    code = f"import sys, {module}; print([m for m in ('triton', 'av', 'tyro') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_leaves_torch_out():
    code = "import sys, rlv2v_fast; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_torch_comes_before_the_modules_that_register_operators():
    """Its import imports them: one that is half imported, because it imports torch itself, would be in the way."""
    files = modules(ROOT)
    registering, rest = set(), ["rlv2v_fast.ops.all"]
    while rest:
        name = rest.pop()
        parts = name if name in files else name.rpartition(".")[0]
        if parts in files and parts not in registering and parts != "rlv2v_fast":
            registering.add(parts)
            rest += imported(files[parts])
    assert len(registering) > 10
    for name in registering:
        at_import = {alias for node in ast.parse(files[name].read_text()).body for alias in names_of(node)}
        package = files.get(name.rpartition(".")[0])
        assert "torch" not in at_import or "torch" in imported(package), f"{name} may be the first to import torch"


def test_public_names_resolve():
    import rlv2v_fast

    for name in rlv2v_fast.__all__:
        assert getattr(rlv2v_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = rlv2v_fast.Nonsense
