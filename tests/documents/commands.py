"""The commands that the pages show, and which of them cannot be tried by a test.

To add a command to README.md or a page of docs/, write it on a line of its own in a fence, plain or
```sh. `test_commands.py` then runs it, in the order of its fence, in a copy of the checkout: with a
small scan under the names DATA.h5, scan.h5, FILES and SOURCE, free ports for 9002, 9004 and 9008,
and folders of its own for /var/lib/mnet and /etc/mnet (`checkout.py`). What serves is started,
waited for and stopped. All that is to be done:

- a program that is neither in `RUN` nor in `NOT_RUN` goes into one of them;
- a command that no test can run goes into `NOT_RUN`, with the reason;
- one that takes more than some seconds on a busy machine, as all that import torch, is made `SLOW`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUN = {"mnet", "python", "gcc", "find", "./sequence_client"}
NOT_RUN = {
    r"make ": "sets up an environment, and then runs what is tested by itself",
    r"pip |uv |python3?[\d.]* -m venv": (
        "downloads; tests/test_install.py runs it against stand-ins of the indexes"
    ),
    r"docker |sudo |useradd |systemctl |install |curl ": (
        "needs docker, root or systemd; test_deployment.py checks the files that it uses"
    ),
    r"zip ": "packs what docker has saved",
    r"ismrmrd_hdf5_to_stream ": (
        "needs the ISMRMRD tools; tests/gadgets/host/test_stream.py runs it between pipes"
    ),
    r"mnet install-gadgetron |mnet doctor --gadgetron|gadgetron_ismrmrd_client ": (
        "needs a C++ Gadgetron; tests/gadgets/doctor/test_gadgetron.py has one, made up"
    ),
    r"tyger ": "needs a Tyger; tests/gadgets/host/test_stream.py runs its job with named pipes",
    r"mnet (convert \S+ \S+ --seq|decide|merge|sequence .*--masks|replay both\.h5)": (
        "needs what a scanner measured; tests/gadgets/two_scans plays the whole way"
    ),
    r"python -m training\.pipeline .*(open|fastmri_\w+)\.json": (
        "needs images or scans that are not in the project, and days"
    ),
}
SLOW = re.compile(r"mnet (scan|serve|demo|doctor|replay|conformance|sequence)\b|python -m ")

SHELL = ("sh", "bash", "shell", "console")
_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(^|\s+)#\s.*$")
_SPAN = re.compile(r"(?<!`)`((?:mnet|python -m) [^`]+)`(?!`)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A block of a page between two lines of ```."""

    page: str  # path from the root
    line: int  # of its first line, from 1
    kind: str  # what it says behind the first ```
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command as a page shows it, without its comment."""

    place: str  # page and line
    text: str

    @property
    def reason(self) -> str:
        """Why no test runs it, "" where one does."""
        found = (why for pattern, why in NOT_RUN.items() if re.match(pattern, self.text))
        return next(found, "")

    @property
    def known(self) -> bool:
        """Whether it is run or listed."""
        return bool(self.reason) or self.text.split()[0] in RUN


def pages(root: Path = ROOT) -> list[Path]:
    """Return README.md and the pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def fences(page: Path, root: Path = ROOT) -> Iterator[Fence]:
    """Give the fences of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield Fence(
            page=str(page.relative_to(root)),
            line=text.count("\n", 0, match.start(2)) + 1,
            kind=match[1],
            text=match[2],
        )


def commands(fence: Fence) -> list[Command]:
    """Return the commands of a fence: all its lines, if it is a shell's or one of them looks so."""
    if fence.kind not in ("", *SHELL):
        return []
    found, start, text = [], 0, ""
    for number, line in enumerate(fence.text.splitlines(), fence.line):
        start = start if text else number
        line = line.removeprefix("$ ").removeprefix("/opt/mnet/bin/")
        text += _COMMENT.sub("", line).rstrip()
        if text.endswith("\\"):
            text = text[:-1]
        elif text:
            found.append(Command(place=f"{fence.page}:{start}", text=text))
            text = ""
    is_shell = bool(fence.kind) or any(_looks_like_one(command.text) for command in found)
    return found if is_shell else []


def spans(page: Path) -> Iterator[str]:
    """Give the commands of ours that stand in the text of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in _SPAN.finditer(text):
        yield " ".join(match[1].split())


def _looks_like_one(line: str) -> bool:
    program = line.split(" ")[0]  # an indented line is none
    return program in RUN or any(re.match(pattern, line) for pattern in NOT_RUN)
