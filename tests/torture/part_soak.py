"""Soak: ten thousand sessions of every kind on one host, which then holds what it held before."""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress

from gadgets.mrd.messages import Close, ConfigFile, Header, Query, Text
from tests.gadgets.helpers.peer import session
from tests.torture.effort import Effort, Outcome
from tests.torture.hosts import SCAN, Running, in_bytes, running
from tests.torture.mutations import damaged, damaged_xml

MOST_GROWTH_MB = 64.0  # after the first tenth, whose sessions fill caches
SETTLED = 10  # one in so many sessions is warming up


def run(effort: Effort) -> Iterator[Outcome]:
    """Run sessions of kinds that are drawn."""
    with running() as host:
        yield soak(effort, host)


def soak(effort: Effort, host: Running) -> Outcome:
    """Run many sessions; memory, files and threads do not grow with their number."""
    outcome, n = Outcome(what="sessions"), effort.times(10_000, 12)
    before = settled = host.held()
    for number in range(n):
        draw = effort.random("soak", number)
        name, kind = draw.choice(KINDS)
        with suppress(OSError, EOFError):
            if wrong := kind(host, draw):
                outcome.fault(f"session {number}, {name}: {wrong}")
        outcome.n += 1
        if number == n // SETTLED:
            host.settles(before)
            settled = host.held()
    if wrong := host.settles(before):
        outcome.fault(wrong)
    grown = host.held().megabytes - settled.megabytes
    outcome.figures["grown_mb"] = round(grown, 1)
    if grown > MOST_GROWTH_MB:
        outcome.fault(f"{grown:.0f} MB more than after the first sessions")
    if wrong := host.scan():
        outcome.fault(f"a sound scan gave {wrong}")
    return outcome


def _sound(host: Running, draw: random.Random) -> str:
    return host.scan(config=draw.choice(("zero_filled.xml", "cg_sense.xml")))


def _told(host: Running, *said: ConfigFile | Header | Text | Query | Close) -> str:
    """Say what is refused; "" where the host says an error and CLOSE."""
    heard = session(host.address, *said)
    texts = [one for one in heard if isinstance(one, Text) and "ERROR" in one.text]
    return "" if len(texts) == 1 and isinstance(heard[-1], Close) else f"heard {heard!r:.200}"


def _unknown(host: Running, draw: random.Random) -> str:
    return _told(host, ConfigFile(f"none-{draw.random()}.xml"), Header(SCAN.header), Close())


def _bad_header(host: Running, draw: random.Random) -> str:
    header = Header(damaged_xml(SCAN.header, draw))
    session(host.address, ConfigFile("zero_filled.xml"), header, Close())  # some are sound
    return ""


def _weights(host: Running, draw: random.Random) -> str:
    text = Text(f'{{"parameters": {{"weights": "w{draw.random()}"}}}}')
    return _told(host, ConfigFile("adaptive_modl"), Header(SCAN.header), text, Close())


def _query(host: Running, draw: random.Random) -> str:
    heard = session(host.address, Query(draw.randrange(1 << 32), "ismrmrd::version"), Close())
    return "" if len(heard) >= 1 else "no answer"


def _noise(host: Running, draw: random.Random) -> str:
    with host.connect() as sock:
        sock.sendall(damaged(in_bytes(), draw))
    return ""


def _nothing(host: Running, draw: random.Random) -> str:
    host.connect().close()
    return ""


KINDS: tuple[tuple[str, Callable[[Running, random.Random], str]], ...] = (
    ("a sound scan", _sound),
    ("an unknown pipeline", _unknown),
    ("a damaged header", _bad_header),
    ("weights that are not there", _weights),
    ("a query", _query),
    ("a damaged stream", _noise),
    ("nothing", _nothing),
)
