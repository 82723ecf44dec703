"""What a `.seq` file says of itself and of its readouts, on every platform."""

from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.errors import ConfigError
from gadgets.pulseq.described import read_sequence
from gadgets.pulseq.limits import LIMITS
from gadgets.pulseq.write import write_sequence
from mnet.sequence.echo_order import IDLE
from tests.gadgets.helpers.protocols import OBLIQUE, course, drawn, protocol

pypulseq = pytest.importorskip("pypulseq")


def written(folder: Path, kind: str = "tse", platform: str = "siemens", **options) -> Path:
    v141, changes = options.pop("v141", False), options.pop("changes", {})
    path = folder / "x.seq"
    write_sequence(drawn(protocol(kind, 64, **changes), platform, **options), path, v141=v141)
    return path


@pytest.mark.parametrize("kind", ["tse", "gre"])
@pytest.mark.parametrize("v141", [False, True])
def test_every_readout_has_the_labels_of_its_line(kind, v141, tmp_path) -> None:
    found = read_sequence(written(tmp_path, kind, v141=v141))
    expected = [
        (int(row), shot.slice, echo, shot.calibration)
        for shot in course(protocol(kind, 64)).shots()
        if shot.rows is not None
        for echo, row in enumerate(shot.rows)
        if row != IDLE
    ]
    got = zip(found.ky, found.slices, found.echoes, found.calibration, strict=True)
    assert [tuple(map(int, one)) for one in got] == [tuple(map(int, one)) for one in expected]


@pytest.mark.parametrize("part", ["calibration", "adaptive"])
def test_the_parts_of_a_scan_share_no_line_and_make_the_whole(part, tmp_path) -> None:
    whole, one = (read_sequence(written(tmp_path, part=p)) for p in ("whole", part))
    kept = whole.calibration == (part == "calibration")
    lines = [set(zip(d.slices.tolist(), d.ky.tolist(), strict=True)) for d in (whole, one)]
    of_part = set(zip(whole.slices[kept].tolist(), whole.ky[kept].tolist(), strict=True))
    assert lines[1] == of_part < lines[0]
    assert one.calibration.all() == (part == "calibration")


def test_definitions_say_what_a_header_needs_and_no_te(tmp_path) -> None:
    path = written(tmp_path, changes={"rotation_deg": OBLIQUE})
    found = read_sequence(path).definitions
    assert found["Matrix"].tolist() == [64, 64, 3]
    assert found["FOV"][:2].tolist() == [0.256, 0.256]
    assert found["SlicePositions"].tolist() == [-0.005, 0.0, 0.005]
    axes = found["MnetDirections"].reshape(3, 3)
    assert np.abs(axes @ axes.T - np.eye(3)).max() < 1e-6
    assert np.linalg.det(axes) == pytest.approx(1)
    assert found["MnetEchoTime"] == pytest.approx(5 * 9.6e-3)
    assert not any(line.startswith("TE ") for line in path.read_text().splitlines())


def test_ge_alone_has_kinds_of_shots(tmp_path) -> None:
    def labels(platform: str) -> dict:
        sequence = pypulseq.Sequence(system=LIMITS[platform].opts())
        sequence.read(str(written(tmp_path, platform=platform)))
        return sequence.evaluate_labels(evolution="blocks")

    assert set(labels("ge")["TRID"]) == {1, 2}
    assert "TRID" not in labels("siemens")


def test_a_file_without_labels_is_refused_with_what_to_do(tmp_path) -> None:
    with pytest.raises(ConfigError, match="has no labels: write the same protocol without"):
        read_sequence(written(tmp_path, labels=False))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Matrix ", "Matrices ", "no definition Matrix"),
        ("Matrix 64 64 3", "Matrix 64 32 3", "LIN goes from"),
        ("Matrix 64 64 3", "Matrix 64 64 2", "3 SlicePositions of 2 slices"),
        ("Matrix 64 64 3", "Matrix 0 64 3", "Matrix is"),
        ("[BLOCKS]", "[BLOKS]", "cannot be read|has no readout"),
    ],
)
def test_a_file_that_contradicts_itself_is_not_believed(old, new, words, tmp_path) -> None:
    path = written(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        read_sequence(path)


def test_what_is_no_sequence_is_refused(tmp_path) -> None:
    (tmp_path / "x.seq").write_text("not a sequence\n")
    with pytest.raises(ConfigError):
        read_sequence(tmp_path / "x.seq")
    with pytest.raises(FileNotFoundError):
        read_sequence(tmp_path / "none.seq")


def test_the_command_writes_checks_and_draws(tmp_path, capsys) -> None:
    command = ["sequence", "tse", "--limits", "lowfield", "--matrix", "64", "64", "--slices", "2"]
    command += ["--part", "calibration", "--echo-ms", "12", "--rotate-deg", "10", "20", "30"]
    files = ["-o", str(tmp_path / "x.seq"), "--picture", str(tmp_path / "x.png")]
    assert main([*command, *files]) == 0
    said = capsys.readouterr().out
    assert "timing right" in said
    assert "x.seq: 16 lines of 2 slices, 6.0 s" in said
    assert (tmp_path / "x.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        main([*command, "-o", str(tmp_path / "x.txt")])
    assert "expected a name that ends in .seq" in capsys.readouterr().err
    weak = ["--max-grad-mt-m", "1", "-o", str(tmp_path / "y.seq")]
    assert main([*command, *weak]) == 1
    assert "too short for these limits" in capsys.readouterr().err
