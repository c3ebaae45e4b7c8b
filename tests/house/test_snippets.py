"""Python in the pages: what it imports is there, under that name."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [path for place in ("*.md", "docs/*.md", "load/**/*.md") for path in sorted(ROOT.glob(place))]
SNIPPETS = [
    pytest.param(text, id=f"{path.relative_to(ROOT)}-{number}")
    for path in PAGES
    for number, text in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S))
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_imports_of_a_snippet(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{node.module} has no {missing}"


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_snippet_stands_alone(text):
    """It can be pasted as it is: every name is imported or made in it."""
    known = set(dir(builtins))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert used <= known, f"not imported: {sorted(used - known)}"


def test_commands_need_nothing_activated():
    """`python scripts/…` and `python launch.py` find the project's interpreter; nothing else does."""
    blocks = [block for path in PAGES for block in re.findall(r"```bash\n(.*?)```", path.read_text("utf-8"), re.S)]
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) > 50
    for line in lines:
        word, *rest = line.removeprefix("srun ").split() or [""]
        assert word not in ("torchrun", "pytest", "uni-instruct-3d", "pip"), f"an activated .venv alone has it: {line}"
        assert word != "python" or rest[0] == "launch.py" or rest[0].startswith("scripts/"), line


def test_tests_that_a_page_names_are_there():
    files = list((ROOT / "tests").rglob("test_*.py"))
    there = {name for path in files for name in re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8"))}
    there |= {path.stem for path in files}
    for page in PAGES:
        named = set(re.findall(r"\b(test_\w+)(?:\.py)?`", page.read_text(encoding="utf-8")))
        assert named <= there, f"{page.name}: no {sorted(named - there)}"


def test_there_are_snippets():
    assert len(SNIPPETS) >= 4
