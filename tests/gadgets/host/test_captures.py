"""Recorded sessions of Gadgetron's client, replayed against our host.

The recordings lie beside the checkout and are not part of it; without them these tests skip. The
byte patterns that matter stand as fixtures in test_message, test_stock and test_fire.
"""

import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from gadgets.host.child_host import Address
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.image_attributes import meta_from_xml
from gadgets.mrd.items import Acquisition, Image, Waveform
from gadgets.mrd.messages import (
    Close,
    Dependency,
    Header,
    Message,
    Response,
    Text,
    buffer_reader,
    read_message,
    write_message,
)
from gadgets.steps.readout import to_hybrid

SHARED = Path(os.environ.get("MNET_SHARED", Path(__file__).resolve().parents[4] / "shared"))
CAPTURES = SHARED / "captures"
SESSIONS = sorted(
    str(path.relative_to(CAPTURES)) for path in CAPTURES.glob("[ab]*/*client_to_server.bin")
)
pytestmark = pytest.mark.skipif(not SESSIONS, reason="no recorded sessions beside the checkout")

# Where we answer otherwise than Gadgetron: one ERROR text, no image. By the session's name, the
# longest prefix counts, and with what the text must say.
REFUSED = {
    "a08a": "no pipeline 'no_such_config.xml'",
    "a08b": "not known to this host: 'NoSuchGadget'",
    "a08c": "libraries not known to this host",
    "a08d": "not well-formed XML",
    "a08d3": "root <something>",
    "a08d4": "stream element <nosuchnode>",
    "a08d5": "root <configuration>, expected .*<version>2",
    "a08e": "trigger_dimension is 'nonsense'",
    "a08f": "acquisition 0 .* has 20 samples, expected 32",
    "a08g": "1 coils, expected 2",
    "a08g3": "",
    "a08h": "the MRD header is no XML",
    "a08i": "message 3 HEADER before the configuration",
    "a08j": "message 2 CONFIG_SCRIPT before the MRD header",
    "a08j2": "message 2 CONFIG_SCRIPT in the stream",
    "a08k": "message 3 HEADER in the stream",
    "a08l": "message 1028 FEEDBACK in the stream",
    "a08l2": "message 1026 WAVEFORM came, for which the pipeline has no reader",
    "a08l3": "message id 77",
    "a08m2": "message 5 TEXT before the configuration",
    "a08n2": "reserved",
    "a08o3": "1 images are incomplete",
    "a08r": "the stream is empty",
    "a08s_": "lines come to it",
    "a08s2": "1 coils, expected 2",
    "a08u": "1 images are incomplete",
    "a08w": r"no pipeline '\.\./config/default\.xml'",
    "a08x": "no pipeline 'a",
    "a10d": "no pipeline 'Generic_Cartesian_Grappa.xml'",
    "b": "this host runs no other modules",
    "b13": "'PythonGadget'",
    "b14": "in <configuration>, expected <gadget class=>",
}
# Images that are better than Gadgetron's, or of what it has and we have not, by the test below.
OTHER_IMAGES = {
    "a08g3": "it fails on asymmetric echoes without its node for them",
    "a09d": "it takes a compressed readout for samples, and its image is nonsense",
    "a10f": "it cuts the image to the samples that were measured",
}
ENDED_WITHOUT_CLOSE = "a08o2"
# What the client had sent before, by the first letters of the session's name.
BEFORE = {"a06d": "a06c", "a06f": "a06e", "a09c": "a06e"}


def messages(data: bytes) -> Iterator[Message]:
    read = buffer_reader(data)
    while True:
        try:
            yield read_message(read)
        except EOFError:
            return


def recorded(session: str, direction: str) -> bytes:
    return (CAPTURES / session.replace("client_to_server", direction)).read_bytes()


def replay(address: Address, data: bytes) -> list[Message]:
    """Send a client's bytes and take what comes, up to the host's end of the connection."""
    received = bytearray()
    with socket.create_connection((address.host, address.port), timeout=60) as sock:

        def take() -> None:
            while part := sock.recv(1 << 16):
                received.extend(part)

        reader = threading.Thread(target=take)
        reader.start()
        sock.sendall(data)
        if not data.endswith(write_message(Close())):
            sock.shutdown(socket.SHUT_WR)
        reader.join(60)
        assert not reader.is_alive(), "the host ends the connection"
    return list(messages(bytes(received)))


def named(start: str) -> str:
    """Return the one session whose name starts so."""
    (session,) = (one for one in SESSIONS if one.startswith(start))
    return session


def entry(table: dict[str, str], session: str) -> str | None:
    found = [name for name in table if session.startswith(name)]
    return table[max(found, key=len)] if found else None


def of(kind: type, all_messages: list[Message]) -> list:  # type: ignore[type-arg]
    return [message for message in all_messages if isinstance(message, kind)]


def assert_images_equal(ours: list[Image], theirs: list[Image]) -> None:
    assert len(ours) == len(theirs)
    for got, expected in zip(ours, theirs, strict=True):
        for name in ("data_type", "image_type", "image_index", "image_series_index", "slice"):
            assert got.header[name] == expected.header[name], name
        for name in ("matrix_size", "field_of_view", "position", "read_dir", "phase_dir"):
            np.testing.assert_array_equal(got.header[name], expected.header[name], name)
        a, b = got.data.astype(np.complex128), expected.data.astype(np.complex128)
        allowed = 1.0 if got.data.dtype.kind in "iu" else 1e-5 * np.abs(b).max()
        assert np.abs(a - b).max() <= allowed


def assert_same_statistics(ours: dict[str, str], theirs: dict[str, str]) -> None:
    if "mean_sigma" in theirs:  # Gadgetron gives the sum
        theirs["mean_sigma"] = f"{float(theirs['mean_sigma']) / int(theirs['channels']):g}"
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == value or float(ours[name]) == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("session", SESSIONS)
def test_a_recorded_session_gets_what_gadgetron_gave_or_a_clear_refusal(
    session: str, address: Address
) -> None:
    sent = recorded(session, "client_to_server")
    theirs = list(messages(recorded(session, "server_to_client")))
    if earlier := BEFORE.get(session[:4]):
        replay(address, recorded(named(earlier), "client_to_server"))
    ours = replay(address, sent)
    images, texts = of(Image, ours), of(Text, ours)
    if sent:
        assert isinstance(ours[-1], Close)
        assert sum(isinstance(m, Close) for m in ours) == 1
    else:
        assert not ours
    words = entry(REFUSED, session)
    if words:
        assert not images
        assert len(texts) == 1
        assert texts[0].text.startswith("ERROR: ")
        assert re.search(words, texts[0].text)
        return
    if session.startswith(ENDED_WITHOUT_CLOSE):
        assert "without CLOSE" in texts[0].text
        assert len(images) == 1, "what was whole is not lost"
        return
    # Gadgetron says nothing of noise that it does not have, nor of echoes that are cut
    odd = [text.text for text in texts if "lines of a partial echo: one side" not in text.text]
    assert set(odd) <= {"WARNING: 1 scans without the noise that they refer to\n"}
    assert len(of(Response, ours)) == len(of(Response, theirs))
    assert [m.correlation for m in of(Response, ours)] == [
        m.correlation for m in of(Response, theirs)
    ]
    if not session.startswith("a04_"):  # it has no folder for its stored noise
        assert len(of(Dependency, ours)) == len(of(Dependency, theirs))
    for mine, recorded_one in zip(of(Dependency, ours), of(Dependency, theirs), strict=False):
        if not session.startswith("a04d"):  # its folder's names are of no use to anybody else
            assert_same_statistics(meta_from_xml(mine.xml), meta_from_xml(recorded_one.xml))
    if entry(OTHER_IMAGES, session) is None:
        assert_images_equal(images, of(Image, theirs))
    else:
        assert len(images) == 1


@pytest.mark.parametrize("session", [s for s in SESSIONS if not s.startswith(("a07b", "a07c"))])
def test_no_id_leaves_that_the_stock_client_cannot_read(session: str, address: Address) -> None:
    ours = replay(address, recorded(session, "client_to_server"))
    assert {type(message) for message in ours} <= {Image, Dependency, Text, Response, Close}


@pytest.mark.parametrize("session", [s for s in SESSIONS if s.startswith(("a07b", "a07c"))])
def test_lines_and_waveforms_come_back_where_writers_are_listed(
    session: str, address: Address
) -> None:
    sent = recorded(session, "client_to_server")
    ours = replay(address, sent)
    lines = [write_message(m) for m in messages(sent) if isinstance(m, Acquisition)]
    assert [write_message(m) for m in of(Acquisition, ours)] == lines
    waveforms = of(Waveform, list(messages(sent)))
    assert [write_message(m) for m in of(Waveform, ours)] == [write_message(m) for m in waveforms]
    counts = Counter(type(m) for m in of(object, ours))
    assert counts[Image] == 0


def lines_of(session: str) -> list[Acquisition]:
    return of(Acquisition, list(messages(recorded(session, "client_to_server"))))


def oracle(lines: list[Acquisition], n_x: int, *, dropped: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    """Centred unitary transform of zero-filled lines (y, x), root sum of squares, middle half.

    `dropped` samples of the k-space of that half are left out, as Gadgetron does.
    """
    n_coils = lines[0].data.shape[0]
    kspace = np.zeros((n_coils, n_x // 2, n_x), np.complex128)
    for line in lines:
        start = n_x // 2 - int(line.header["center_sample"])
        stop = start + line.data.shape[1]
        kspace[:, int(line.header["kspace_encode_step_1"]), start:stop] = line.data
    axes = (-2, -1)
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho")
    image = np.fft.fftshift(shifted, axes=axes)
    quarter = n_x // 4
    half = image[..., quarter : n_x - quarter]
    kx = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(half, axes=-1)), axes=-1)
    kx[..., :dropped] = 0
    half = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kx, axes=-1)), axes=-1)
    return np.sqrt((np.abs(half) ** 2).sum(0))


@pytest.mark.parametrize(("name", "n_x"), [("a08g3", 64), ("a09d", 32), ("a10f", 64)])
def test_where_gadgetron_s_image_is_wrong_ours_is_that_of_the_lines(
    name: str, n_x: int, address: Address
) -> None:
    (session,) = [one for one in SESSIONS if one.startswith(name)]
    (image,) = of(Image, replay(address, recorded(session, "client_to_server")))
    expected = oracle(lines_of(session), n_x)
    error = np.abs(image.data[0, 0] - expected).max() / expected.max()
    assert error < 1e-5


def test_gadgetron_s_image_of_an_asymmetric_echo_lacks_what_its_crop_spread_and_ours_does_not(
    address: Address,
) -> None:
    """Its padding of 16 samples is 8 behind the crop; these it leaves out: 3 % of the maximum."""
    session = named("a10f")
    with h5py.File(CAPTURES / "c_reference/phantom32_asymmetric_pi/float.h5") as file:
        theirs = file["img/image_0/data"][0, 0, 0]
    (ours,) = of(Image, replay(address, recorded(session, "client_to_server")))
    largest = theirs.max()
    lacking = oracle(lines_of(session), 64, dropped=8)
    assert np.abs(theirs - lacking).max() < 1e-5 * largest
    assert 0.03 < np.abs(theirs - ours.data[0, 0]).max() / largest < 0.04


def test_lines_behind_gadgetron_s_own_nodes_give_what_the_raw_lines_give() -> None:
    """NoiseAdjust without noise, AsymmetricEcho and RemoveROOversampling, then our readout."""
    session = named("a10f")
    sent = list(messages(recorded(session, "client_to_server")))
    (header,) = of(Header, sent)
    geometry = Geometry.parse(header.xml)
    name = "acquisitions_after_NoiseAdjust_AsymmetricEcho_RemoveROOversampling.bin"
    behind = (CAPTURES / "c_reference/phantom32_asymmetric" / name).read_bytes()
    lines = of(Acquisition, list(messages(behind)))
    assert len(lines) == 32
    for raw, line in zip(of(Acquisition, sent), lines, strict=True):
        ours, theirs = (to_hybrid(one, geometry).data for one in (raw, line))
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(ours).max()


def test_compressed_lines_are_within_what_the_recording_measured() -> None:
    plain = lines_of(next(s for s in SESSIONS if s.startswith("a01")))
    for name, bound in (("a09_", 5.3e-4), ("a09b", 0.0099)):
        coded = lines_of(next(s for s in SESSIONS if s.startswith(name)))
        parts = [(c.data - p.data).view(np.float32) for c, p in zip(coded, plain, strict=True)]
        assert np.abs(parts).max() <= bound


def test_several_recorded_clients_at_once_get_their_own_images(address: Address) -> None:
    sessions = [s for s in SESSIONS if s.startswith(("a01", "a02b", "a10_", "a10b"))]
    answers: dict[str, list[Message]] = {}

    def play(session: str) -> None:
        answers[session] = replay(address, recorded(session, "client_to_server"))

    threads = [threading.Thread(target=play, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for session in sessions:
        theirs = of(Image, list(messages(recorded(session, "server_to_client"))))
        assert_images_equal(of(Image, answers[session]), theirs)
