import json
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from gadgets.errors import ConfigError, GadgetError
from gadgets.files.noise_readout import as_readout
from gadgets.files.noise_store import (
    Noise,
    NoiseStore,
    Unusable,
    default_folder,
    matched,
)
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.messages import buffer_reader, read_message, write_message
from mnet.physics.prewhiten import noise_covariance

NAME = "DEVICE_JANE-DOE_STUDY_MEASUREMENT"


def some(labels: tuple[str, ...] = ("A", "B", "C"), seed: int = 0, scale: float = 1.0) -> Noise:
    rng = np.random.default_rng(seed)
    n = len(labels)
    samples = rng.normal(size=(n, 99)) + 1j * rng.normal(size=(n, 99))
    covariance = (scale * samples @ samples.conj().T / 98).astype(np.complex64)
    return Noise(covariance=covariance, dwell_us=4.9, labels=labels)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("scale", [1.0, 1e-14, 1e9])
def test_what_is_stored_comes_back_to_the_last_bit_in_another_store(
    tmp_path: Path, scale: float
) -> None:
    noise = some(scale=scale)
    NoiseStore(tmp_path / "a" / "b").put(NAME, noise)
    got = NoiseStore(tmp_path / "a" / "b").get(NAME)
    assert got is not None
    np.testing.assert_array_equal(got.covariance, noise.covariance)
    assert got.covariance.dtype == np.complex64
    assert (got.dwell_us, got.labels) == (4.9, ("A", "B", "C"))


def test_another_id_has_nothing_stored_and_a_newer_measurement_replaces_the_older(
    tmp_path: Path,
) -> None:
    store = NoiseStore(tmp_path)
    assert store.get(NAME) is None
    store.put(NAME, some(seed=1))
    store.put(NAME, some(seed=2))
    assert store.get(NAME[:-1]) is None
    got = store.get(NAME)
    assert got is not None
    np.testing.assert_array_equal(got.covariance, some(seed=2).covariance)


def test_files_name_no_patient_and_hold_covariance_dwell_time_and_labels_alone(
    tmp_path: Path,
) -> None:
    NoiseStore(tmp_path).put(NAME, some())
    path = only_file(tmp_path)
    assert set(json.loads(path.read_text())) == {"labels", "dwell_us", "real", "imaginary"}
    for part in NAME.split("_"):
        assert part not in path.name
        assert part not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "", "x" * 5000, "ü/\n", "."])
def test_no_id_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    store = NoiseStore(tmp_path / "in")
    store.put(name, some())
    assert store.get(name) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert only_file(tmp_path / "in").name.endswith(".noise.json")


def test_beyond_the_bound_the_oldest_go(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path, keep=3)
    for i in range(5):
        store.put(str(i), some())
        for path in tmp_path.iterdir():  # file systems may give all of a moment the same age
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    assert [store.get(str(i)) is not None for i in range(5)] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", ["A", "A", "C"]),
        ("labels", ["A", "B"]),
        ("labels", []),
        ("labels", 3),
        ("labels", [1, 2, 3]),
        ("dwell_us", -1),
        ("dwell_us", None),
        ("dwell_us", float("nan")),
        ("real", [[1, 2, 3]]),
        ("real", [[1, 5, 0], [0, 1, 0], [0, 0, 1]]),
        ("real", [[float("inf"), 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("imaginary", "text"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_not_used(
    tmp_path: Path, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    store = NoiseStore(tmp_path)
    store.put(NAME, some())
    path = only_file(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert store.get(NAME) is None
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04\x95", b"[]", b"[" * 100000, b"null"])
def test_a_file_of_anything_else_is_not_used(tmp_path: Path, content: bytes) -> None:
    store = NoiseStore(tmp_path)
    store.put(NAME, some())
    only_file(tmp_path).write_bytes(content)
    assert store.get(NAME) is None


def test_a_huge_file_is_not_even_read(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    store.put(NAME, some())
    os.truncate(only_file(tmp_path), 1 << 34)  # a hole on disk, but not in memory
    assert store.get(NAME) is None


def test_a_write_that_fails_leaves_the_older_file_whole_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = NoiseStore(tmp_path)
    store.put(NAME, some(seed=1))

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GadgetError, match="no space left"):
        store.put(NAME, some(seed=2))
    got = store.get(NAME)
    assert got is not None
    np.testing.assert_array_equal(got.covariance, some(seed=1).covariance)
    only_file(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GadgetError, match="noise cannot be stored"):
        NoiseStore(tmp_path / "file" / "in").put(NAME, some())


def test_readers_of_a_file_that_is_written_again_and_again_always_find_it_whole(
    tmp_path: Path,
) -> None:
    store = NoiseStore(tmp_path)
    store.put(NAME, some())
    done = threading.Event()

    def write() -> None:
        for seed in range(30):
            store.put(NAME, some(seed=seed))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert store.get(NAME) is not None
    thread.join()


def test_coils_are_matched_by_label_and_may_be_fewer() -> None:
    noise = some()
    np.testing.assert_array_equal(matched(noise, ("A", "B", "C")).covariance, noise.covariance)
    order = [2, 0]
    expected = noise.covariance[order][:, order]
    got = matched(noise, ("C", "A"))
    np.testing.assert_array_equal(got.covariance, expected)
    assert (got.labels, got.dwell_us) == (("C", "A"), 4.9)


@pytest.mark.parametrize("scale", [1.0, 1e-14])
def test_a_readout_can_stand_for_stored_noise(scale: float) -> None:
    noise = some(scale=scale)
    readout = as_readout(noise)
    got = noise_covariance(torch.from_numpy(readout.data)).numpy()
    np.testing.assert_allclose(got, noise.covariance, rtol=1e-5, atol=1e-6 * scale)
    assert readout.header["sample_time_us"] == np.float32(4.9)
    assert int(readout.header["flags"]) == Flag.NOISE
    assert read_message(buffer_reader(write_message(readout))) is not None


@pytest.mark.parametrize("labels", [(), ("A", "D"), ("A", "A"), ("A", "")])
def test_coils_that_cannot_be_matched_are_named(labels: tuple[str, ...]) -> None:
    with pytest.raises(Unusable, match="the stored noise A, B, C"):
        matched(some(), labels)


def test_the_default_folder_is_of_the_user_s_state(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mnet" / "noise"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "mnet" / "noise"


def test_a_user_without_a_home_must_say_where_noise_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="--noise"):
        default_folder()
