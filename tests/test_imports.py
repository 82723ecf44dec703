"""Who may import whom: mnet <- gadgets, mnet <- training, and nothing else."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "mnet": {"gadgets", "training", "xml_configs", "tests", "ismrmrd", "zmq"},
    "gadgets": {"training", "tests"},
    "training": {"gadgets", "tests", "zmq"},
}


def imported(source: str) -> set[str]:
    """Return the top-level packages that a file imports anywhere in it, also as text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func)
            if function.endswith(("import_module", "__import__", "resources.files")):
                names.add(str(node.args[0].value))
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_that_it_must_not_know(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    broken = {
        str(path.relative_to(ROOT)): wrong
        for path in files
        if (wrong := imported(path.read_text()) & FORBIDDEN[package])
    }
    assert not broken


@pytest.mark.parametrize("package", FORBIDDEN)
def test_nothing_is_unpickled(package: str) -> None:
    unpicklers = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    for path in sorted((ROOT / package).rglob("*.py")):
        text = path.read_text()
        assert not imported(text) & unpicklers, path
        assert "torch.load(" not in text, path
        assert "allow_pickle=True" not in text, path


def test_every_way_to_import_is_seen() -> None:
    lines = [
        "import gadgets.link",
        "from gadgets import link",
        "def f():\n    import gadgets",
        "importlib.import_module('gadgets.link')",
        "if True:\n    from gadgets.link import Link as L",
    ]
    assert [imported(line) for line in lines] == [{"gadgets"}] * len(lines)
    assert imported("from . import link\nfrom .gadget import run") == set()
