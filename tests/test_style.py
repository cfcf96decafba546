"""Rules of style that ruff does not know."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def test_names_of_tests_have_at_most_60_characters():
    long = [
        f"{path.relative_to(TESTS)}: {node.name}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and len(node.name) > 60
    ]
    assert long == []
