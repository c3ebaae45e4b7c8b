"""The arrows of the house: who may import whom, read from the source of every file."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTENSION = "custom/uni_instruct_guidance"
STANDARD = set(sys.stdlib_module_names)

#: folder -> first names that its files must not import. Arrows: core <- teachers <- guidance, distill2d,
#: editing <- systems <- uni_instruct_3d <- scripts; the portable floor knows neither the extension nor those above it.
FORBIDDEN = {
    EXTENSION: {"uni_instruct_3d", "scripts", "backends", "portable", "custom"},
    "portable": {"uni_instruct_guidance", "uni_instruct_3d", "scripts", "custom"},
    "portable/backends": {"threestudio"},
    "uni_instruct_3d": {"scripts", "launch", "_environment"},
}
#: sub-package of the extension -> sub-packages that its files must not import.
ABOVE = {
    "core": {"teachers", "guidance", "distill2d", "editing", "systems", "scoring"},
    "teachers": {"guidance", "distill2d", "editing", "systems", "scoring"},
    "guidance": {"editing", "systems"},
    "distill2d": {"guidance", "editing", "systems"},
    "editing": {"guidance", "distill2d", "systems", "scoring"},
}


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports; relative ones are resolved against the folder from the root on."""
    found = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            if node.level and not node.module:
                found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_no_arrow_runs_up(folder):
    for path in files(folder):
        wrong = {name for name in imports(path) if name.split(".")[0] in FORBIDDEN[folder]}
        if folder == EXTENSION:
            wrong = {name for name in wrong if not name.startswith("custom.uni_instruct_guidance")}
        if folder == "portable":
            wrong = {name for name in wrong if not name.startswith("portable.")}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", [name for name in ABOVE if (ROOT / EXTENSION / name).is_dir()])
def test_no_arrow_runs_up_within_the_extension(package):
    above = tuple(f"custom.uni_instruct_guidance.{name}" for name in ABOVE[package])
    for path in files(f"{EXTENSION}/{package}"):
        wrong = [name for name in imports(path) if name.startswith(above)]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_core_needs_torch_only():
    for path in files(f"{EXTENSION}/core"):
        first = {name.split(".")[0] for name in imports(path)}
        assert first <= STANDARD | {"torch", "jaxtyping", "custom"}, path.name


def test_portable_holds_stand_ins_and_nothing_else():
    assert {path.name for path in (ROOT / "portable").iterdir() if path.name != "__pycache__"} == {
        "backends",
        "threestudio",
    }


def test_scripts_leave_the_path_alone():
    """One place opens the house: ``uni_instruct_3d/__init__.py``."""
    for path in [*files("scripts"), *files("custom"), *files("portable")]:
        assert "sys.path.insert" not in path.read_text(encoding="utf-8"), path.name


def test_every_script_takes_the_projects_environment_first():
    """So that ``python scripts/x.py`` works with nothing activated."""
    for path in (ROOT / "scripts").glob("[!_]*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        imported = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [getattr(node, "module", None) or node.names[0].name for node in imported]
        assert next(name for name in names if name.split(".")[0] not in STANDARD) == "_environment", path.name


def test_no_module_keeps_the_mode_that_train_was_called_with():
    """Lightning restores ``training`` without calling ``train()``: what an override keeps is stale from then on."""
    for path in [*files(EXTENSION), *files("portable")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        methods = [item for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body]
        names = {item.name for item in methods if isinstance(item, ast.FunctionDef)}
        assert not names & {"train", "eval"}, f"{path.relative_to(ROOT)} overrides train() or eval(); ask self.training"
