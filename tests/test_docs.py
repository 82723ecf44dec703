"""The pages of docs/ as a site."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs")
import mkdocs.exceptions
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]


def pages(nav: Any) -> list[str]:
    """Return the files that a nav names, at whatever depth."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages(part)]


def make_site(root: Path, target: Path) -> None:
    build(load_config(str(root / "mkdocs.yml"), site_dir=str(target)))


def test_every_page_is_in_the_nav_and_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = {path.name for path in (ROOT / "docs").glob("*.md")}
    if unwritten := set(named) - there:
        pytest.skip(f"not written yet: {sorted(unwritten)}")
    assert there == set(named)
    make_site(ROOT, tmp_path)
    for page in named:
        text = (tmp_path / page.replace(".md", ".html")).read_text()
        assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=.(?:https?:)?//", text), page


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Make a project of one page, with our settings."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    settings |= {"nav": ["page.md"], "docs_dir": "docs"}
    for folder in ("docs", "scripts", "vendor"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    shutil.copy(ROOT / "scripts/docs_sources.py", tmp_path / "scripts")
    (tmp_path / "vendor/client.c").write_text("int main;")
    return tmp_path


def test_a_link_to_a_file_beside_docs_leads_to_a_copy_of_it(small: Path) -> None:
    (small / "vendor/client.md").write_text("# Client")
    (small / "docs/page.md").write_text(
        "# Page\n\n[c](../vendor/client.c) [d](../vendor/client.md)"
    )
    make_site(small, small / "site")
    page = (small / "site/page.html").read_text()
    for name, text in [("client.c", "int main;"), ("client.md.txt", "# Client")]:
        assert f'href="files/vendor/{name}"' in page
        assert (small / "site/files/vendor" / name).read_text() == text


@pytest.mark.parametrize("link", ["../vendor/other.c", "other.md", "#nowhere"])
def test_a_broken_link_fails_the_site(small: Path, link: str) -> None:
    (small / "docs/page.md").write_text(f"# Page\n\n[it]({link})")
    with pytest.raises(mkdocs.exceptions.Abort):
        make_site(small, small / "site")
