import functools
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.parallel import Task, TaskError, run_all

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is missing")


def mark(path: Path) -> bool:
    """Leave a marker that can be left once only; says whether this was the first."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def write(path: Path) -> None:
    """Write a task's file, which must be the first time."""
    if not mark(path.with_suffix(".written")):
        raise RuntimeError(f"{path} is written twice")
    path.with_suffix(".part").write_text(f"{path.stem} on {torch.get_num_threads()}")
    path.with_suffix(".part").rename(path)


def write_but_die_once(path: Path, victim: str, late: bool) -> None:
    """As `write`, but the worker of one task is killed: half-way, or before it can report."""
    dies = path.stem == victim and mark(path.with_suffix(".victim"))
    if dies and not late:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)


def die(path: Path) -> None:
    if path.stem == "2":
        with path.with_suffix(".deaths").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    write(path)


def fail_at_two(path: Path) -> None:
    if path.stem == "2":
        raise ZeroDivisionError("two is not to be")
    write(path)


def say_who(path: Path) -> None:
    path.write_text(str(os.getpid()))


def wait_for_the_other(path: Path) -> None:
    """Finish only if two tasks run at the same time."""
    mark(path.with_suffix(".here"))
    other = path.with_name("1.here" if path.stem == "0" else "0.here")
    for _ in range(600):
        if other.exists():
            return write(path)
        time.sleep(0.05)
    raise TimeoutError("nobody else came")


def interrupted_after_a_death(path: Path) -> bool:
    if path.with_name("1.victim").exists():
        raise InterruptedError
    return path.exists()


def outputs(folder: Path, n: int = 6) -> list[Path]:
    return [folder / f"{i}.out" for i in range(n)]


def tasks(work: Callable[[Path], object], paths: list[Path]) -> list[Task]:
    return [Task(run=functools.partial(work, path), output=path) for path in paths]


@pytest.fixture(scope="module")
def two_ray_workers():
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        # how its workers find this module; an environment of Ray's own would start them later
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: minutes on a busy machine
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            log_to_driver=False,
        )
    yield
    ray.shutdown()


BACKENDS = ["processes", pytest.param("ray", marks=needs_ray)]
SLOW_WITH_RAY = ["processes", pytest.param("ray", marks=[needs_ray, pytest.mark.slow])]
quiet_ray = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")


@pytest.fixture
def backend(request):
    if request.param == "ray":
        request.getfixturevalue("two_ray_workers")
    return request.param


@quiet_ray
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_with_a_worker_killed_half_way_nothing_is_lost_or_done_twice(backend, tmp_path):
    check_killed(backend, tmp_path, late=False)


@quiet_ray
@pytest.mark.parametrize("backend", SLOW_WITH_RAY, indirect=True)
def test_with_a_worker_killed_before_its_report_nothing_is_done_twice(backend, tmp_path):
    check_killed(backend, tmp_path, late=True)


def check_killed(backend: str, tmp_path: Path, *, late: bool) -> None:
    work = functools.partial(write_but_die_once, victim="2", late=late)
    run_all(tasks(work, outputs(tmp_path)), n_workers=2, backend=backend)
    assert (tmp_path / "2.victim").exists()
    for i, path in enumerate(outputs(tmp_path)):
        assert path.read_text() == f"{i} on 1"


@quiet_ray
@pytest.mark.parametrize("backend", SLOW_WITH_RAY, indirect=True)
def test_a_task_that_kills_every_worker_is_given_up_and_reported(backend, tmp_path):
    with pytest.raises(TaskError, match=r"1 of 6 failed\n.*2\.out.* died"):
        run_all(tasks(die, outputs(tmp_path)), n_workers=2, backend=backend, n_retries=1)
    assert [path.stem for path in outputs(tmp_path) if not path.exists()] == ["2"]
    assert (tmp_path / "2.deaths").read_text() == "xx"


@quiet_ray
@pytest.mark.parametrize("backend", ["inline", *BACKENDS], indirect=True)
def test_an_error_is_reported_with_task_and_traceback_after_the_others(backend, tmp_path):
    with pytest.raises(TaskError) as error:
        run_all(tasks(fail_at_two, outputs(tmp_path)), n_workers=2, backend=backend)
    assert str(tmp_path / "2.out") in str(error.value)
    assert "in fail_at_two" in str(error.value)
    assert "ZeroDivisionError: two is not to be" in str(error.value)
    assert [path.stem for path in outputs(tmp_path) if not path.exists()] == ["2"]


@quiet_ray
@pytest.mark.parametrize("backend", ["inline", *BACKENDS], indirect=True)
def test_what_is_done_is_not_done_again(backend, tmp_path):
    some = outputs(tmp_path)
    some[1].write_text("kept")
    run_all(tasks(write, some), n_workers=2, backend=backend)
    run_all(tasks(write, some), n_workers=2, backend=backend)
    assert some[1].read_text() == "kept"
    assert all(path.exists() for path in some)


@quiet_ray
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_two_workers_work_at_the_same_time(backend, tmp_path):
    some = outputs(tmp_path, 2)
    run_all(tasks(wait_for_the_other, some), n_workers=2, backend=backend)
    assert all(path.exists() for path in some)


def test_no_more_processes_than_asked_and_none_is_this_one(tmp_path):
    some = outputs(tmp_path)
    run_all(tasks(say_who, some), n_workers=2)
    pids = {int(path.read_text()) for path in some}
    assert len(pids) <= 2
    assert os.getpid() not in pids


def test_an_interrupt_stops_the_workers(tmp_path):
    work = functools.partial(write_but_die_once, victim="1", late=True)
    some = [
        replace(task, is_made=interrupted_after_a_death)
        for task in tasks(work, outputs(tmp_path, 40))
    ]
    with pytest.raises(InterruptedError):
        run_all(some, n_workers=1)
    n_written = len(list(tmp_path.glob("*.out")))
    time.sleep(0.5)
    assert len(list(tmp_path.glob("*.out"))) == n_written < 40


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"mnet-gadgets\[ray\]"):
        run_all(tasks(write, outputs(tmp_path)), backend="ray")


def test_an_unknown_backend_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected inline, processes or ray"):
        run_all(tasks(write, outputs(tmp_path)), backend="slurm")
