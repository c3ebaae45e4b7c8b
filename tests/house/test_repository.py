"""What a repository is expected to have, and that its pages point to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from uni_instruct_3d import __version__

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for place in ("*.md", "docs/*.md", "prompts/*.md", "load/**/*.md") for path in ROOT.glob(place))


def test_one_version_and_one_licence_everywhere():
    text = (ROOT / "pyproject.toml").read_text()
    project = {key: re.search(rf'^{key} = "(.*)"$', text, re.M).group(1) for key in ("version", "license")}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == __version__
    assert project["license"] == citation["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "[yyyy]" not in text
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), target
