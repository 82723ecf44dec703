"""What git holds: no path of somebody's machine, and not much of it."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = re.compile(r"(?<![\w.~/])/(home|work|tmp|root)/|\b[A-Z]:\\")
ALLOWED = {"docs/deployment.md": "/tmp/share/log"}  # where FIRE looks for a log, on every scanner
MOST_BYTES = 8.5e6  # half of what a shallow clone may take: it has every file twice


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git holds here."""
    try:
        found = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in found.stdout.split("\0") if name]


def paths_in(name: str, text: str) -> list[str]:
    """Return every line with an absolute path, save for what is allowed in the file."""
    lines = text.replace(ALLOWED.get(name, "\0"), "").splitlines()
    return [line for line in lines if FOREIGN.search(line) or str(ROOT) in line]


def test_no_card_table_log_or_page_holds_a_path_of_a_machine(tracked: list[Path]) -> None:
    told = [path for path in tracked if path.suffix in (".json", ".md", ".jsonl")]
    found = {
        name: lines
        for path in told
        if path.exists()
        for name in [path.relative_to(ROOT).as_posix()]
        if (lines := paths_in(name, path.read_text(encoding="utf-8")))
    }
    assert len(told) > 10
    assert found == {}


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ('"start": "/home/me/modl"', True),
        ("see /tmp/x", True),
        (r'"run": "C:\\runs"', True),
        (f"made in {ROOT}", True),
        ("docs/work/plan.md", False),
        ("https://example.org/home/x", False),
        ("~/.local/state", False),
        ("runs/open/weights", False),
    ],
)
def test_a_path_of_a_machine_is_told_from_others(text: str, is_path: bool) -> None:
    assert bool(paths_in("x.json", text)) is is_path


def test_what_git_holds_is_small(tracked: list[Path]) -> None:
    sizes = {path: path.stat().st_size for path in tracked if path.exists()}
    assert sum(sizes.values()) < MOST_BYTES, sorted(sizes, key=lambda path: -sizes[path])[:5]
