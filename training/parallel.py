"""Spread units of work, each of which makes one file, over processes or a cluster.

A unit is whatever `work` takes; `done` says whether its file is there. What is done is skipped, so
that a stopped run goes on; a worker that dies is replaced and its unit is tried again; a unit that
fails is reported when the others have finished. Files have to appear atomically.
"""

import contextlib
import multiprocessing
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeVar

import torch
from tqdm import tqdm

Unit = TypeVar("Unit")
Backend = Literal["inline", "processes", "ray"]
Outcomes = Generator[tuple[Unit, str], None, None]  # why a unit failed, or nothing


class SpreadError(RuntimeError):
    """Some units failed; all others are done."""


def spread(
    work: Callable[[Unit], None],
    units: Sequence[Unit],
    *,
    done: Callable[[Unit], bool],
    n_workers: int = 1,
    backend: Backend = "processes",
    n_retries: int = 2,
    name: str = "",
) -> None:
    """Do the units that are not done, `n_workers` at a time, each on one thread.

    `inline` works in this process; `processes` starts fresh ones on this machine; `ray` uses the
    cluster of RAY_ADDRESS, or this machine, whose workers need the same checkout and the same
    folders. What is sent to another process must be importable there: functions of a module, or
    partials of them.

    Raises
    ------
    SpreadError
        Once everything else is done, if a unit raised, with its traceback, or if its worker died
        `n_retries` + 1 times.
    """
    missing = [unit for unit in units if not done(unit)]
    outcomes: Outcomes[Unit]
    if backend == "inline":
        outcomes = ((unit, _failure(work, unit)) for unit in missing)
    elif backend == "processes":
        outcomes = _processes(work, missing, done, n_workers, n_retries)
    elif backend == "ray":
        outcomes = _ray(work, missing, done, n_workers, n_retries)
    else:
        raise ValueError(f"backend {backend!r}, expected inline, processes or ray")
    failures = []
    progress = tqdm(total=len(units), initial=len(units) - len(missing), desc=name)
    with progress, contextlib.closing(outcomes):
        for unit, failure in outcomes:
            progress.update()
            if failure:
                failures.append(f"{unit}: {failure}")
    if failures:
        raise SpreadError(f"{len(failures)} of {len(units)} failed\n" + "\n".join(failures))


def _failure(work: Callable[[Unit], None], unit: Unit) -> str:
    try:
        work(unit)
    except Exception:  # whatever it is, the other units go on and the caller hears of it
        return traceback.format_exc()
    return ""


def _processes(
    work: Callable[[Unit], None],
    units: Sequence[Unit],
    done: Callable[[Unit], bool],
    n_workers: int,
    n_retries: int,
) -> Outcomes[Unit]:
    waiting, deaths = deque(enumerate(units)), Counter[int]()
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, int, Unit]] = {}  # by the connection that will answer
    try:
        while waiting or busy:
            while waiting and len(busy) < n_workers:
                worker = idle.pop() if idle else _Worker(work)
                place, unit = waiting.popleft()
                worker.give(unit)
                busy[worker.connection] = worker, place, unit
            for connection in wait(list(busy)):
                worker, place, unit = busy[connection]
                answer = worker.answer()
                del busy[connection]
                if answer is not None:
                    idle.append(worker)
                    yield unit, answer
                    continue
                worker.stop()
                deaths[place] += 1
                if done(unit):  # it died with its work done
                    yield unit, ""
                elif deaths[place] > n_retries:
                    code = worker.process.exitcode
                    yield unit, f"{deaths[place]} workers died of it, the last with code {code}"
                else:
                    waiting.append((place, unit))
    finally:
        for worker in idle + [worker for worker, *_ in busy.values()]:
            worker.stop()


class _Worker:
    """A process that does one unit after the other, started afresh rather than forked."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its death ends the connection

    def give(self, unit: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # dead already: its answer will say so
            self.connection.send(unit)

    def answer(self) -> str | None:
        """Return why the unit failed, or nothing, or None if the worker died."""
        try:
            return str(self.connection.recv())
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _serve(work: Callable[[Any], None], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and stops us
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            connection.send(_failure(work, connection.recv()))


def _ray(
    work: Callable[[Unit], None],
    units: Sequence[Unit],
    done: Callable[[Unit], bool],
    n_workers: int,
    n_retries: int,
) -> Outcomes[Unit]:
    try:
        import ray
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "backend 'ray' needs the package ray: pip install 'mnet-gadgets[ray]', "
            "or choose backend 'processes'"
        ) from None
    ours = not ray.is_initialized()
    if ours:
        ray.init()
    # Ray starts a task again whose worker or machine died; `_once` sees whether it had finished
    task: Any = ray.remote(num_cpus=1, max_retries=n_retries)(_once)
    waiting, running = deque(units), dict[Any, Unit]()
    try:
        while waiting or running:
            while waiting and len(running) < n_workers:
                unit = waiting.popleft()
                running[task.remote(work, done, unit)] = unit
            for answer in ray.wait(list(running))[0]:
                try:
                    failure = ray.get(answer)
                except ray.exceptions.RayError as error:
                    failure = f"its workers died {n_retries + 1} times: {error}"
                yield running.pop(answer), failure
    finally:
        for answer in running:
            ray.cancel(answer, force=True)
        if ours:
            ray.shutdown()


def _once(work: Callable[[Unit], None], done: Callable[[Unit], bool], unit: Unit) -> str:
    torch.set_num_threads(1)
    return "" if done(unit) else _failure(work, unit)
