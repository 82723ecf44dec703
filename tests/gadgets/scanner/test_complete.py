"""`mnet scan` plays what is fully sampled, and says of all else what is missing, beforehand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.errors import IncompleteError
from gadgets.files.source import Source, write_mrd
from gadgets.host import child_host
from gadgets.mrd.items import Acquisition
from gadgets.scanner.adaptive_scan import acquirable_rows
from tests.gadgets.helpers import closed_loop

N_KY = closed_loop.N_KY
Change = Callable[[Acquisition], Acquisition]


def with_lines(change: Change) -> Source:
    whole = closed_loop.source(1)
    return replace(whole, acquisitions=[change(line) for line in whole.acquisitions])


def ky(line: Acquisition) -> int:
    return int(line.header["kspace_encode_step_1"])


def points(share: float) -> Change:
    rng = np.random.default_rng(0)
    return lambda line: replace(
        line, data=line.data * (rng.random(line.data.shape[1]) < share).astype(np.float32)
    )


def rows(every: int) -> Change:
    return lambda line: line if ky(line) % every == 0 else replace(line, data=line.data * 0)


def rolled(line: Acquisition) -> Acquisition:
    header = line.header.copy()
    header["kspace_encode_step_1"] = (ky(line) + N_KY // 2) % N_KY
    return replace(line, header=header)


INCOMPLETE: dict[str, tuple[Source, str]] = {
    "12 % of the points": (with_lines(points(0.12)), r"got 12 % of them and zeros"),
    "25 % of the points": (with_lines(points(0.25)), r"got 2[3-7] % of them and zeros"),
    "55 % of the points": (with_lines(points(0.55)), r"got 5[3-7] % of them and zeros"),
    "every fourth row, the rest zeros": (with_lines(rows(4)), "only zeros in 45 of them"),
    "not centred": (with_lines(rolled), r"strongest line is ky 0, but the header's center is 32"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_what_is_not_fully_sampled_is_refused_with_what_is_missing(name: str) -> None:
    source, said = INCOMPLETE[name]
    with pytest.raises(IncompleteError, match=said):
        acquirable_rows(source)


def test_rows_of_zeros_at_the_edges_are_padding_and_count_in_no_acceleration() -> None:
    padded = with_lines(
        lambda line: line if 4 <= ky(line) < 60 else replace(line, data=line.data * 0)
    )
    assert np.flatnonzero(acquirable_rows(padded)).tolist() == list(range(4, 60))


def test_a_partial_echo_is_complete() -> None:
    """Samples that no line has were not to be measured."""

    def cut(line: Acquisition) -> Acquisition:
        data = line.data.copy()
        data[:, :20] = 0
        return replace(line, data=data)

    assert acquirable_rows(with_lines(cut)).all()


def no_host(*_: object, **__: object) -> None:
    raise AssertionError("a host was started")


def test_the_command_refuses_in_a_sentence_before_a_host_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_host, "private_host", no_host)
    path = tmp_path / "scan.h5"
    source = INCOMPLETE["12 % of the points"][0]
    write_mrd(path, source.header, source.acquisitions)
    assert main(["scan", str(path), "--no-report"]) == 1
    said = capsys.readouterr().err
    assert f"mnet scan: {path} cannot be played as an adaptive scan: slice 0: expected all" in said
    assert f"`mnet replay {path}` reconstructs what was measured" in said
    whole = closed_loop.source(1)
    write_mrd(path, whole.header, whole.acquisitions)
    assert main(["scan", str(path), "--acceleration", "32", "--no-report"]) == 1
    assert "no mask can be planned at 32x: it leaves" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grappa2.h5", "got 48 rows with gaps between them"),
        ("fm_mask.h5", "got 24 rows with gaps between them, in 93"),
        ("tse.h5", "rows with gaps between them"),
        ("noncontig.h5", "rows with gaps between them"),
        ("pf_wrongcentre.h5", "strongest line is ky 24, but the header's center is 36"),
    ],
)
def test_files_of_others_that_are_not_complete_are_refused_with_an_offer(
    shared: Path,
    name: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_host, "private_host", no_host)
    assert main(["scan", str(shared / "cases" / name), "--no-report"]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "`mnet replay" in err
    assert "Traceback" not in err
