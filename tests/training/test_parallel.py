import functools
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from training.parallel import SpreadError, spread

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is missing")


def mark(path: Path) -> bool:
    """Leave a marker that can be left once only; says whether this was the first."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def write(path: Path) -> None:
    """Write a unit's file, which must be the first time."""
    if not mark(path.with_suffix(".written")):
        raise RuntimeError(f"{path} is written twice")
    path.with_suffix(".part").write_text(f"{path.stem} on {torch.get_num_threads()}")
    path.with_suffix(".part").rename(path)


def write_but_die_once(path: Path, victim: str, late: bool) -> None:
    """As `write`, but the worker of one unit is killed: half-way, or before it can report."""
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
    """Finish only if two units run at the same time."""
    mark(path.with_suffix(".here"))
    other = path.with_name("1.here" if path.stem == "0" else "0.here")
    for _ in range(600):
        if other.exists():
            return write(path)
        time.sleep(0.05)
    raise TimeoutError("nobody else came")


def units(folder: Path, n: int = 6) -> list[Path]:
    return [folder / f"{i}.out" for i in range(n)]


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
    spread(work, units(tmp_path), done=Path.exists, n_workers=2, backend=backend)
    assert (tmp_path / "2.victim").exists()
    for i, path in enumerate(units(tmp_path)):
        assert path.read_text() == f"{i} on 1"


@quiet_ray
@pytest.mark.parametrize("backend", SLOW_WITH_RAY, indirect=True)
def test_a_unit_that_kills_every_worker_is_given_up_and_reported(backend, tmp_path):
    with pytest.raises(SpreadError, match=r"1 of 6 failed\n.*2\.out.* died"):
        spread(die, units(tmp_path), done=Path.exists, n_workers=2, backend=backend, n_retries=1)
    assert [path.stem for path in units(tmp_path) if not path.exists()] == ["2"]
    assert (tmp_path / "2.deaths").read_text() == "xx"


@quiet_ray
@pytest.mark.parametrize("backend", ["inline", *BACKENDS], indirect=True)
def test_an_error_is_reported_with_unit_and_traceback_after_the_others(backend, tmp_path):
    with pytest.raises(SpreadError) as error:
        spread(fail_at_two, units(tmp_path), done=Path.exists, n_workers=2, backend=backend)
    assert str(tmp_path / "2.out") in str(error.value)
    assert "in fail_at_two" in str(error.value)
    assert "ZeroDivisionError: two is not to be" in str(error.value)
    assert [path.stem for path in units(tmp_path) if not path.exists()] == ["2"]


@quiet_ray
@pytest.mark.parametrize("backend", ["inline", *BACKENDS], indirect=True)
def test_what_is_done_is_not_done_again(backend, tmp_path):
    some = units(tmp_path)
    some[1].write_text("kept")
    spread(write, some, done=Path.exists, n_workers=2, backend=backend)
    spread(write, some, done=Path.exists, n_workers=2, backend=backend)
    assert some[1].read_text() == "kept"
    assert all(path.exists() for path in some)


@quiet_ray
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_two_workers_work_at_the_same_time(backend, tmp_path):
    some = units(tmp_path, 2)
    spread(wait_for_the_other, some, done=Path.exists, n_workers=2, backend=backend)
    assert all(path.exists() for path in some)


def test_no_more_processes_than_asked_and_none_is_this_one(tmp_path):
    some = units(tmp_path)
    spread(say_who, some, done=Path.exists, n_workers=2)
    pids = {int(path.read_text()) for path in some}
    assert len(pids) <= 2
    assert os.getpid() not in pids


def test_an_interrupt_stops_the_workers(tmp_path):
    def done(path: Path) -> bool:
        return path.exists()

    class Stop(Exception):  # noqa: N818
        pass

    def interrupted(path: Path) -> bool:
        if (tmp_path / "1.victim").exists():
            raise Stop
        return done(path)

    work = functools.partial(write_but_die_once, victim="1", late=True)
    with pytest.raises(Stop):
        spread(work, units(tmp_path, 40), done=interrupted, n_workers=1)
    n_written = len(list(tmp_path.glob("*.out")))
    time.sleep(0.5)
    assert len(list(tmp_path.glob("*.out"))) == n_written < 40


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"mnet-gadgets\[ray\]"):
        spread(write, units(tmp_path), done=Path.exists, backend="ray")


def test_an_unknown_backend_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected inline, processes or ray"):
        spread(write, units(tmp_path), done=Path.exists, backend="slurm")
