"""Tasks, each of which makes one file: here, in processes, or on a cluster.

What is made is skipped, so that a stopped run goes on; a worker that dies is replaced and its task
is tried again; a task that fails is reported when the others have finished. Files have to appear
atomically.
"""

import contextlib
import multiprocessing
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

Backend = Literal["inline", "processes", "ray"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Task:
    """Something to run, and the file that is there when it has run.

    To go to another process, `run` and `is_made` must be importable there: functions of a module,
    or partials of them.
    """

    run: Callable[[], object]
    output: Path
    is_made: Callable[[Path], bool] = Path.exists  # of `output`

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return self.is_made(self.output)

    def __repr__(self) -> str:
        return f"making {self.output}"


Outcomes = Generator[tuple[Task, str], None, None]  # why a task failed, or nothing


class TaskError(RuntimeError):
    """Some tasks failed; all others are done."""


def run_all(
    tasks: Sequence[Task],
    *,
    n_workers: int = 1,
    backend: Backend = "processes",
    n_retries: int = 2,
    name: str = "",
) -> None:
    """Run the tasks that are not done, `n_workers` at a time, each on one thread.

    `inline` works in this process; `processes` starts fresh ones on this machine; `ray` uses the
    cluster of RAY_ADDRESS, or this machine, whose workers need the same checkout and the same
    folders.

    Raises
    ------
    TaskError
        Once everything else is done, if a task raised, with its traceback, or if its worker died
        `n_retries` + 1 times.
    """
    missing = [task for task in tasks if not task.done]
    outcomes: Outcomes
    if backend == "inline":
        outcomes = ((task, _failure(task)) for task in missing)
    elif backend == "processes":
        outcomes = _in_processes(missing, n_workers, n_retries)
    elif backend == "ray":
        outcomes = _in_ray(missing, n_workers, n_retries)
    else:
        raise ValueError(f"backend {backend!r}, expected inline, processes or ray")
    failures = []
    progress = tqdm(total=len(tasks), initial=len(tasks) - len(missing), desc=name)
    with progress, contextlib.closing(outcomes):
        for task, failure in outcomes:
            progress.update()
            if failure:
                failures.append(f"{task}: {failure}")
    if failures:
        raise TaskError(f"{len(failures)} of {len(tasks)} failed\n" + "\n".join(failures))


def _failure(task: Task) -> str:
    try:
        task.run()
    except Exception:  # whatever it is, the other tasks go on and the caller hears of it
        return traceback.format_exc()
    return ""


def _in_processes(tasks: Sequence[Task], n_workers: int, n_retries: int) -> Outcomes:
    waiting, deaths = deque(tasks), Counter[Path]()
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, Task]] = {}  # by the connection that will answer
    try:
        while waiting or busy:
            while waiting and len(busy) < n_workers:
                worker = idle.pop() if idle else _Worker()
                task = waiting.popleft()
                worker.give(task)
                busy[worker.connection] = worker, task
            for connection in wait(list(busy)):
                worker, task = busy[connection]
                answer = worker.answer()
                del busy[connection]
                if answer is not None:
                    idle.append(worker)
                    yield task, answer
                    continue
                worker.stop()
                deaths[task.output] += 1
                if task.done:  # it died with its work done
                    yield task, ""
                elif deaths[task.output] > n_retries:
                    code = worker.process.exitcode
                    n = deaths[task.output]
                    yield task, f"{n} workers died of it, the last with code {code}"
                else:
                    waiting.append(task)
    finally:
        for worker in idle + [worker for worker, _ in busy.values()]:
            worker.stop()


class _Worker:
    """A process that runs one task after the other, started afresh rather than forked."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that its death ends the connection

    def give(self, task: Task) -> None:
        with contextlib.suppress(BrokenPipeError):  # dead already: its answer will say so
            self.connection.send(task)

    def answer(self) -> str | None:
        """Return why the task failed, or nothing, or None if the worker died."""
        try:
            return str(self.connection.recv())
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and stops us
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            connection.send(_failure(connection.recv()))


def _in_ray(tasks: Sequence[Task], n_workers: int, n_retries: int) -> Outcomes:
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
    once: Any = ray.remote(num_cpus=1, max_retries=n_retries)(_once)
    waiting, running = deque(tasks), dict[Any, Task]()
    try:
        while waiting or running:
            while waiting and len(running) < n_workers:
                task = waiting.popleft()
                running[once.remote(task)] = task
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


def _once(task: Task) -> str:
    torch.set_num_threads(1)
    return "" if task.done else _failure(task)
