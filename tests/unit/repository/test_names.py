"""Names of tests: one that is too long for a line of pytest's output is a paragraph, not a name."""

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]
LONGEST = 60


def test_names_of_tests_have_at_most_60_characters() -> None:
    names = [
        node.name
        for path in TESTS.rglob("test_*.py")
        if "node_modules" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert len(names) > 800, "it has looked at every lane"
    assert [name for name in names if len(name) > LONGEST] == []
