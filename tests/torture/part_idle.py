"""Idle peers: connections that say nothing, or stop in mid-message, keep nobody else waiting."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress

from gadgets.limits.settings import Limits
from tests.torture.effort import Effort, Outcome
from tests.torture.hosts import Running, in_bytes, running

N_IDLE = 500


def run(effort: Effort) -> Iterator[Outcome]:
    """Hold connections open that do nothing."""
    with running(Limits(sessions=N_IDLE + 8)) as host:  # more are refused, which others try
        yield idle(effort, host)


def idle(effort: Effort, host: Running) -> Outcome:
    """Scan beside idle connections; when they end, the host holds what it held before."""
    outcome, data, before = Outcome(what="idle connections"), in_bytes(), host.held()
    with ExitStack() as stack:
        for number in range(effort.times(N_IDLE, 8)):
            draw = effort.random("idle", number)
            sock = stack.enter_context(host.connect())
            with suppress(OSError):
                sock.sendall(data[: draw.choice((0, 1, 5, 1026, draw.randrange(len(data) - 4)))])
            outcome.n += 1
        for _ in range(effort.times(20, 1)):
            if wrong := host.scan():
                outcome.fault(f"a scan beside {outcome.n} idle connections gave {wrong}")
    if wrong := host.settles(before):
        outcome.fault(wrong)
    return outcome
