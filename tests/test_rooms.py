"""Who may import whom: packages, and the rooms inside them, in one direction."""

import ast
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOREIGN = {
    "mnet": {"gadgets", "training", "xml_configs", "tests", "ismrmrd", "zmq", "h5py"},
    "gadgets": {"training", "tests"},
    "training": {"tests", "zmq", "ismrmrd", "h5py"},
}
# A room may import from itself and from those on the lines before its own, never from a neighbour.
ORDER = {
    "gadgets": [
        {"errors"},
        {"logs"},
        {"mrd", "gadgetron"},
        {"limits"},
        {"records"},
        {"files", "mask"},
        {"pulseq"},
        {"pipeline"},
        {"steps"},
        {"worker"},
        {"host", "report", "two_scans"},
        {"scanner", "monitor", "export"},
        {"doctor"},
        {"conformance"},
        {"commands"},
        {"external", "cli"},
    ],
    "mnet": [{"physics", "masks"}, {"recon", "sampler", "sequence"}, {"weight_files"}, {"score"}],
    "training": [
        {"config", "parallel"},
        {"data"},
        {"masks"},
        {"fit"},
        {"guard"},
        {"table"},
        {"real"},
        {"evaluate"},
        {"study"},
        {"pipeline"},
    ],
}
ALONE = {"gadgets.report": {"gadgets.report"}}  # of its own package it needs nothing else
# Two rooms to read scans, and the templates of pages: `report` needs mnet alone (ALONE above), so
# neither the host nor a socket comes in with it.
FROM_OUTSIDE = {"training": {"gadgets.mrd", "gadgets.files", "gadgets.errors", "gadgets.report"}}
MOST_FILES = 18
LONGEST_CHAIN = 10


def modules(root: Path) -> dict[str, Path]:
    """Return the files of all packages by module name."""
    files = [path for package in ORDER for path in sorted((root / package).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in files}


def imported(module: str, source: str) -> Iterator[str]:
    """Give every name that a file imports anywhere in it, as a full path; also named as text."""
    package = module.removesuffix(".__init__").split(".")
    if not module.endswith("__init__"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            where = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{where}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func)
            if function.endswith(("import_module", "__import__", "resources.files")):
                yield str(node.args[0].value)


def room(name: str) -> str:
    """Return the room of a module or of something in it: a folder, or a file beside the folders."""
    return ".".join(name.split(".")[:2])


def faults(root: Path) -> list[str]:
    """List every import against the order of rooms."""
    floor = {
        f"{package}.{name}": number
        for package, order in ORDER.items()
        for number, names in enumerate(order)
        for name in names
    }
    found = []
    for module, path in modules(root).items():
        own = room(module)
        for name in set(imported(module, path.read_text())):
            other = room(name)
            if other in (own, module.split(".")[0]) or other not in floor:
                continue
            if own.split(".")[0] != other.split(".")[0]:
                continue
            if floor[other] >= floor.get(own, -1) or other not in ALONE.get(own, {other}):
                found.append(f"{module} imports {name}")
    return sorted(found)


def test_rooms_import_in_one_direction() -> None:
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("gadgets/mrd/items.py", "from ..host import serve"),
        ("gadgets/steps/accumulate.py", "def f():\n    from ..host.session import Session"),
        ("gadgets/files/convert.py", "from ..mask.messages import Hello"),
        ("gadgets/report/page.py", "from ..mrd.items import Image"),
        ("gadgets/worker/process.py", "import gadgets.scanner.client"),
        ("mnet/physics/sense.py", "from ..recon.cg import solve"),
        ("training/data/corpus.py", "from training.masks import icd"),
        ("gadgets/mask/codec.py", "importlib.import_module('gadgets.pipeline.build')"),
    ],
)
def test_an_import_against_the_order_is_seen(path: str, line: str, tmp_path: Path) -> None:
    for package in ORDER:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=lambda _, names: _data(names))
    file = tmp_path / path
    file.write_text(f"{file.read_text()}\n{line}\n")
    assert len(faults(tmp_path)) == 1


def _data(names: list[str]) -> list[str]:
    return [name for name in names if "." in name and not name.endswith(".py")]


@pytest.mark.parametrize("package", FOREIGN)
def test_a_package_imports_nothing_that_it_must_not_know(package: str) -> None:
    for module, path in modules(ROOT).items():
        if module.split(".")[0] == package:
            names = {name.partition(".")[0] for name in imported(module, path.read_text())}
            assert not names & FOREIGN[package], module


def test_training_reads_scans_and_writes_pages_through_three_rooms_of_gadgets_and_no_others() -> (
    None
):
    for module, path in modules(ROOT).items():
        if module.startswith("training"):
            names = {room(name) for name in imported(module, path.read_text())}
            ours = {name for name in names if name.startswith("gadgets")}
            assert ours <= FROM_OUTSIDE["training"], module


def test_every_file_lies_in_a_room_and_no_room_is_crowded() -> None:
    rooms: dict[str, int] = {}
    for module in modules(ROOT):
        package, *inner = module.split(".")
        known = {"__init__"} | {name for names in ORDER[package] for name in names}
        assert inner[0] in known, module
        assert len(inner) <= 2, module
        if len(inner) == 2 and inner[1] != "__init__":
            rooms[f"{package}.{inner[0]}"] = rooms.get(f"{package}.{inner[0]}", 0) + 1
    assert max(rooms.values()) <= MOST_FILES, rooms


def test_every_room_says_what_lives_there() -> None:
    for module, path in modules(ROOT).items():
        if module.endswith("__init__") and module.count("."):
            text = ast.get_docstring(ast.parse(path.read_text()))
            assert text, module
            assert len(text.split()) >= 20, module


@pytest.mark.parametrize("package", ORDER)
def test_no_chain_of_imports_is_long(package: str) -> None:
    files = modules(ROOT)

    @cache
    def chain(module: str) -> tuple[str, ...]:
        within = {
            next((m for m in (name, name.rpartition(".")[0]) if m in files), "")
            for name in imported(module, files[module].read_text())
        }
        below = [chain(m) for m in within - {"", module} if m.startswith(package)]
        return (module, *max(below, key=len, default=()))

    longest = max((chain(m) for m in files if m.startswith(package)), key=len)
    assert len(longest) <= LONGEST_CHAIN, longest


@pytest.mark.parametrize("package", FOREIGN)
def test_nothing_is_unpickled(package: str) -> None:
    unpicklers = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    for module, path in modules(ROOT).items():
        if module.split(".")[0] == package:
            text = path.read_text()
            names = {name.partition(".")[0] for name in imported(module, text)}
            assert not names & unpicklers, module
            assert "torch.load(" not in text, module
            assert "allow_pickle=True" not in text, module


def test_every_way_to_import_is_seen() -> None:
    lines = [
        "import gadgets.host.serve",
        "from gadgets.host import serve",
        "from ..host import serve",
        "from ..host.serve import Host",
        "def f():\n    import gadgets.host",
        "importlib.import_module('gadgets.host.serve')",
        "if True:\n    from gadgets.host.serve import Host as H",
    ]
    found = [{room(name) for name in imported("gadgets.steps.readout", line)} for line in lines]
    assert found == [{"gadgets.host"}] * len(lines)
    assert list(imported("gadgets.mrd.__init__", "from .items import Item")) == [
        "gadgets.mrd.items.Item"
    ]
