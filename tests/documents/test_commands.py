"""Every command that README.md and docs/ show does what it says, or is listed with a reason."""

import argparse
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from gadgets.cli import _parser
from tests.documents.checkout import MissingToolError, checkout
from tests.documents.commands import (
    NOT_RUN,
    ROOT,
    SLOW,
    Command,
    Fence,
    commands,
    fences,
    pages,
    spans,
)

FENCES = [fence for page in pages() for fence in fences(page)]
OURS = ("gadgets", "mnet", "training", "tests")


def tried() -> list[object]:
    """Return the fences with commands to run, the slow ones marked."""
    found: list[object] = []
    for fence in FENCES:
        run = [command for command in commands(fence) if not command.reason]
        slow = any(SLOW.match(command.text) for command in run)
        if run:
            marks = [pytest.mark.slow] if slow else []
            found.append(pytest.param(run, id=str(fence), marks=marks))
    return found


def test_every_command_of_the_pages_is_run_or_listed() -> None:
    neither = [
        f"{command.place}: {command.text}"
        for fence in FENCES
        for command in commands(fence)
        if not command.known
    ]
    assert not neither, "see tests/documents/commands.py: " + "; ".join(neither)


@pytest.mark.parametrize("run", tried())
def test_the_commands_of_a_fence_do_what_they_say(run: list[Command], tmp_path: Path) -> None:
    try:
        with checkout(tmp_path / "checkout") as copy:
            copy.try_all(run)
    except MissingToolError as error:
        pytest.skip(str(error))


def shown_file(fence: Fence) -> bool:
    """Say whether a fence is a file of docs/, which has tests of its own."""
    return any(fence.text == path.read_text() for path in (ROOT / "docs").rglob("*.py"))


@pytest.mark.slow  # each imports torch in a process of its own
@pytest.mark.parametrize(
    "fence", [f for f in FENCES if f.kind == "python" and not shown_file(f)], ids=str
)
def test_python_on_a_page_runs_from_its_first_line_to_its_last(
    fence: Fence, tmp_path: Path
) -> None:
    with checkout(tmp_path / "checkout") as copy:
        (copy.folder / "fence.py").write_text(fence.text)
        copy.try_all([Command(place=str(fence), text="python -W error fence.py")])


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def fault(command: str) -> str:
    """Say what a command of ours names that does not exist, "" where all does."""
    words = shlex.split(command)
    if words[0] == "python":
        module = words[2]
        ours = module.split(".")[0] in OURS
        return f"no module {module}" if ours and not importlib.util.find_spec(module) else ""
    name = words[1]
    if name.startswith("-") or not name.islower():  # an option of mnet itself, or COMMAND
        return ""
    if name not in subcommands():
        return f"no command {name}"
    known = subcommands()[name]._option_string_actions
    unknown = [word for word in words if re.match("--[a-z]", word) and word not in known]
    return f"{name} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_in_the_text_name_what_exists(page: Path) -> None:
    assert {span: fault(span) for span in spans(page) if fault(span)} == {}


PAGE = """
Text with `mnet scan DATA.h5 --fast`, `mnet COMMAND --help` and
`mnet serv`.

```
 sequence ──► host
    python is mentioned here
```
```
mnet scan DATA.h5        # a comment
mnet replay DATA.h5 \\
  --config b.xml
cmake --build .
docker build .
```
```sh
# nothing but a comment
rsync a b
```
```json
mnet serve
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "docs/page.md"
    path.parent.mkdir()
    path.write_text(PAGE)
    return path


def test_a_fence_is_one_of_commands_where_a_line_looks_like_one_and_then_all_are(
    page: Path, tmp_path: Path
) -> None:
    found = [command for fence in fences(page, tmp_path) for command in commands(fence)]
    assert [(command.place, command.text) for command in found] == [
        ("docs/page.md:10", "mnet scan DATA.h5"),
        ("docs/page.md:11", "mnet replay DATA.h5   --config b.xml"),
        ("docs/page.md:13", "cmake --build ."),
        ("docs/page.md:14", "docker build ."),
        ("docs/page.md:18", "rsync a b"),
    ]
    assert [command.known for command in found] == [True, True, False, True, False]
    assert [bool(command.reason) for command in found] == [False, False, False, True, False]


def test_a_wrong_command_in_the_text_is_found(page: Path) -> None:
    assert [fault(span) for span in spans(page)] == ["scan has no --fast", "", "no command serv"]
    assert fault("python -m gadgets.no_such") == "no module gadgets.no_such"


def test_a_command_that_fails_fails_its_test(tmp_path: Path) -> None:
    with checkout(tmp_path / "checkout") as copy:
        with pytest.raises(AssertionError, match=r"page:1: mnet convert none\.h5"):
            copy.try_all([Command(place="page:1", text="mnet convert none.h5 out.h5")])
        with pytest.raises(AssertionError, match="it ended"):
            copy.try_all([Command(place="page:1", text="mnet serve --pipelines none")])


def test_whatever_is_not_run_has_a_reason() -> None:
    assert all(len(why.split()) > 3 for why in NOT_RUN.values())
