"""Lines from tissue maps: linear in the tissues, in the file's units, true to echo and shot."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from gadgets.errors import ConfigError
from gadgets.files.source import Source, open_source
from gadgets.files.tissue_maps import TissueMaps, read_tissues
from gadgets.mrd.items import Acquisition
from gadgets.scanner.demo_scan import demo_volume, write_demo
from gadgets.scanner.simulated_lines import Physics, SimulatedLines
from mnet.sequence.echo_order import IDLE
from mnet.sequence.tissue import FAT, GREY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nilearn") is None, reason="nilearn is not installed"
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, TissueMaps]:
    path = tmp_path_factory.mktemp("demo") / "demo.h5"
    write_demo(path, demo_volume(n_slices=2, n_coils=5, n_x=80, n_ky=92, n_acquirable=81))
    return open_source(path), read_tissues(path)


def simulated(demo: tuple[Source, TissueMaps], train: int = 8, **physics: object) -> SimulatedLines:
    source, maps = demo
    chosen = Physics(**{"kind": "tse", **physics})  # type: ignore[arg-type]
    return SimulatedLines(source.acquisitions, source.geometry, maps, chosen, train)


def data(lines: list[Acquisition]) -> np.ndarray:
    return np.stack([line.data for line in lines])


ROWS = np.arange(40, 48)


def test_tissue_fractions_fill_the_head_and_bone_has_none(demo) -> None:
    _, maps = demo
    whole = maps.fractions.sum(1)
    # the shade of the template goes 17 % above one
    assert whole.min() >= 0
    assert 1.0 < whole.max() < 1.25
    assert 0.3 < (whole > 0.5).mean() < 0.7
    assert all(maps.fractions[:, i].max() > 0.5 for i in range(5))


def test_a_line_is_the_transform_of_the_tissues_at_its_echo(demo) -> None:
    """Independent of the code under test: the whole image at one echo, transformed at once."""
    lines = simulated(demo)
    signals = lines.slice(0, settled=True).shot(ROWS)
    _, maps = demo
    for echo in (0, 5):
        image = np.einsum("t,txy,cxy->cxy", lines.steady[:, echo], maps.fractions[0], maps.coils[0])
        padded = np.pad(image, ((0, 0), (40, 40), (0, 0)))
        axes = (-2, -1)
        kspace = np.fft.fftshift(
            np.fft.fft2(np.fft.ifftshift(padded, axes=axes), axes=axes, norm="ortho"), axes=axes
        )
        expected = kspace[..., ROWS[echo]] * lines._scale
        noise = signals[echo].data - expected
        readouts = np.concatenate([line.data for line in lines.noise], axis=1)
        # what is left is noise of the file's strength, 800 samples of it
        assert np.abs(noise).std() / np.abs(readouts).std() == pytest.approx(1, abs=0.1)


def test_the_signal_has_the_energy_of_the_files_lines(demo) -> None:
    source, _ = demo
    lines = simulated(demo)
    recorded = [a for a in source.acquisitions if not a.header["flags"] & (1 << 18)]
    reference = lines.reference(5)[len(lines.noise) :]
    ratio = np.linalg.norm(data(reference)) / np.linalg.norm(data(recorded))
    # the noise is 5 % of it, and the same
    assert ratio == pytest.approx(1, abs=0.01)


def test_the_noise_of_a_line_is_its_own_whatever_the_order(demo) -> None:
    lines = simulated(demo)
    first = data(lines.slice(0, settled=True).shot(ROWS))
    again = data(lines.slice(0, settled=True).shot(ROWS))
    assert np.array_equal(first, again)
    turned = data(lines.slice(0, settled=True).shot(ROWS[::-1]))[::-1]
    steady = lines.reference(4)
    by_row = {int(a.header["kspace_encode_step_1"]): a for a in steady[len(lines.noise) :][:81]}
    row = ROWS[3]  # at echo 4 in the first, at echo 5 in the turned
    counter = int(demo[0].geometry.counter(row))
    assert np.allclose(first[3], by_row[counter].data, atol=1e-4)
    assert np.linalg.norm(turned[3] - first[3]) > 0.02 * np.linalg.norm(first[3])


def test_the_first_shot_from_rest_is_stronger_and_a_dummy_takes_that_away(demo) -> None:
    lines = simulated(demo)
    steady, rest, dummy = (lines.slice(0, settled=s) for s in (True, False, False))
    dummy.dummy()
    norms = [np.linalg.norm(data(each.shot(ROWS))) for each in (steady, rest, dummy)]
    assert norms[1] > 1.2 * norms[0]
    assert norms[2] == pytest.approx(norms[0], rel=0.05)


def test_idle_echoes_have_no_line(demo) -> None:
    rows = ROWS.copy()
    rows[5:] = IDLE
    assert len(simulated(demo).of((0, 0)).shot(rows)) == 5


def test_a_wait_costs_a_tse_nothing_within_its_tr(demo) -> None:
    lines = simulated(demo, silent_wait=True)
    waited, not_waited = lines.slice(0, settled=True), lines.slice(0, settled=True)
    waited.wait(2900.0)  # TR 3000 ms, of which 77 are the train's
    assert np.array_equal(data(waited.shot(ROWS)), data(not_waited.shot(ROWS)))
    waited.wait(2950.0)
    assert np.linalg.norm(data(waited.shot(ROWS)) - data(not_waited.shot(ROWS))) > 0


def test_a_silent_wait_spoils_a_gre_and_a_pulsing_one_does_not(demo) -> None:
    row = np.array([46])
    norms = {}
    for silent in (False, True):
        lines = simulated(demo, train=1, kind="gre", silent_wait=silent)
        slice_ = lines.slice(0, settled=True)
        before = np.linalg.norm(data(slice_.shot(row)))
        slice_.wait(500.0)
        norms[silent] = np.linalg.norm(data(slice_.shot(row))) / before
    assert norms[True] > 1.2
    assert norms[False] == pytest.approx(1, abs=0.05)


def test_gain_correction_brings_every_echo_to_the_strength_of_the_middle_one(demo) -> None:
    lines = simulated(demo)
    row = demo[0].geometry.n_ky // 2
    echoes = [
        lines.line(0, row, lines.steady[:, e], lines.gains[e]).data * np.float32(1)
        for e in range(8)
    ]
    norms = np.array([np.linalg.norm(echo) for echo in echoes])
    # exact over all slices together, this is one of them
    assert np.abs(norms / norms[4] - 1).max() < 0.05
    assert lines.gains[4] == 1
    assert lines.gains[7] > 1.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": 8, "kind": "gre"}, "--physics gre: a gradient echo has trains of 1, got 8"),
        ({"tr_ms": 50.0}, r"--physics tse: 8 echoes of 9.6 ms take 76.8 ms"),
    ],
)
def test_protocols_that_cannot_be_are_refused(demo, change, said) -> None:
    with pytest.raises(ConfigError, match=said):
        simulated(demo, **change)


def test_maps_of_another_matrix_are_refused(demo) -> None:
    source, maps = demo
    small = replace(maps, fractions=maps.fractions[..., :90], coils=maps.coils[..., :90])
    with pytest.raises(ConfigError, match=r"of \(2, 80, 90\), the scan of \(2, 80, 92\)"):
        simulated((source, small))
    with pytest.raises(ConfigError, match="of 5 tissues"):
        replace(maps, fractions=maps.fractions[:, :4])


def test_files_with_several_lines_of_a_row_are_refused(demo) -> None:
    source, maps = demo
    doubled = replace(source, acquisitions=[*source.acquisitions, source.acquisitions[-1]])
    with pytest.raises(ConfigError, match="more than one line of row"):
        simulated((doubled, maps))


def test_a_file_without_tissue_maps_says_where_to_get_one(tmp_path) -> None:
    from gadgets.files.source import write_mrd
    from tests.gadgets.helpers.closed_loop import source

    plain = source(1)
    write_mrd(tmp_path / "plain.h5", plain.header, plain.acquisitions)
    with pytest.raises(ConfigError, match=r"plain.h5 has no tissue maps .*`mnet demo --keep FILE`"):
        read_tissues(tmp_path / "plain.h5")


def test_tissue_maps_come_back_as_they_were_written(demo) -> None:
    _, maps = demo
    assert [t.name for t in maps.tissues][:2] == ["csf", "grey matter"]
    assert maps.tissues[1] == GREY
    assert maps.tissues[3] == FAT
    assert maps.fractions.dtype == np.float32
    assert maps.coils.dtype == np.complex64
