"""What is fuzzed: sound input, how it is damaged, who reads it, and the errors that may come."""

import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gadgets.errors import ConfigError, GadgetsError, HeaderError, ProtocolError
from gadgets.files.identity import without_identity
from gadgets.files.mrd_hdf5 import write_mrd
from gadgets.files.source import open_source
from gadgets.host.fire_dialect import request
from gadgets.mask.codec import Codec, MaskProtocolError
from gadgets.mask.curve_keys import ClientKeys, ServerKeys, make_keys
from gadgets.mask.in_band import read_hello
from gadgets.mask.messages import Applied, MaskMessage, Scope, as_record
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import IMAGE_HEADER, WAVEFORM_HEADER
from gadgets.mrd.image_attributes import meta_from_xml, meta_to_xml
from gadgets.mrd.items import Image, Waveform
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Feedback,
    Header,
    Message,
    Query,
    Text,
    buffer_reader,
    read_message,
    write_message,
)
from gadgets.pipeline.build import load, parse
from gadgets.records.reader import read_record
from gadgets.records.writer import FRAME, MAGIC, MESSAGES
from mnet.recon.modl import MoDL
from mnet.weight_files import WeightsError, load_weights, save_weights
from tests.gadgets.helpers.mask_bench import CHOSEN, SLICE, hello
from tests.gadgets.helpers.synthetic import scanned
from tests.torture.mutations import damaged, damaged_json, damaged_xml

SCAN = scanned(n_slices=1, n_coils=2)
Case = bytes | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One reader. `full` and `short` say how many cases; `slow_s` is too long for one."""

    name: str
    seeds: tuple[Case, ...]
    damage: Callable[..., Case]
    read: Callable[[Case], object]
    errors: tuple[type[Exception], ...]
    full: int
    short: int
    slow_s: float = 2.0


def targets(folder: Path) -> Iterator[Target]:
    """Give every target; `folder` is for files."""
    yield Target(
        name="codec",
        seeds=tuple(map(write_message, _messages())),
        damage=damaged,
        read=lambda data: read_message(buffer_reader(data)),  # type: ignore[arg-type]
        errors=(ProtocolError, EOFError),
        full=1_000_000,
        short=1500,
    )
    yield Target(
        name="MRD header",
        seeds=(SCAN.header, scanned(n_slices=3, measurement_id="7", user={"a": "b"}).header),
        damage=damaged_xml,
        read=lambda xml: (Geometry.parse(xml), without_identity(xml)),  # type: ignore[arg-type]
        errors=(HeaderError,),
        full=200_000,
        short=300,
    )
    yield Target(
        name="pipeline XML",
        seeds=tuple(load(name).encode() for name in ("adaptive_modl.xml", "default.xml")),
        damage=damaged_xml,
        read=parse,
        errors=(ConfigError,),
        full=50_000,
        short=100,
    )
    yield Target(
        name="image attributes",
        seeds=(meta_to_xml({"a": "b\\c", "mnet_lam": "1"}),),
        damage=damaged_xml,
        read=meta_from_xml,  # type: ignore[arg-type]
        errors=(ProtocolError,),
        full=100_000,
        short=200,
    )
    yield from _mask_targets()
    yield from _file_targets(folder)


def _mask_targets() -> Iterator[Target]:
    codec, fixed = Codec(), hello()
    frames = [codec.encode(message) for message in (fixed, *_mask_messages(fixed.scan_token))]

    def decode(text: Case) -> object:
        assert isinstance(text, str)
        for *_, payload in frames[1:]:
            with suppress(MaskProtocolError):
                return codec.decode([b"AMSK1", text.encode(errors="replace"), payload])
        return codec.decode([b"AMSK1", text.encode(errors="replace"), frames[0][2]])

    yield Target(
        name="mask messages, headers",
        seeds=tuple(frame[1].decode() for frame in frames),
        damage=damaged_json,
        read=decode,
        errors=(MaskProtocolError,),
        full=100_000,
        short=200,
    )
    yield Target(
        name="mask messages, payloads",
        seeds=tuple(frame[2] for frame in frames),
        damage=damaged,
        read=lambda data: codec.decode([b"AMSK1", frames[1][1], data]),  # type: ignore[list-item]
        errors=(MaskProtocolError,),
        full=100_000,
        short=200,
    )
    record = as_record(fixed)
    yield Target(
        name="hello in the MRD stream",
        seeds=(json.dumps(record, default=list),),
        damage=damaged_json,
        read=lambda text: read_hello(text, "token"),  # type: ignore[arg-type]
        errors=(ValueError,),
        full=100_000,
        short=200,
    )
    fire = {"parameters": {"config": "cg_sense", "lam": 0.1, "mnet_hello": {"ky_min": 1}}}
    yield Target(
        name="FIRE's JSON",
        seeds=(json.dumps(fire),),
        damage=damaged_json,
        read=lambda text: request("cg_sense", text),  # type: ignore[arg-type]
        errors=(ConfigError,),
        full=100_000,
        short=200,
    )


def _file_targets(folder: Path) -> Iterator[Target]:
    scan = folder / "scan.h5"
    write_mrd(scan, SCAN.header, SCAN.lines())
    whole = scan.read_bytes()

    def block_zeroed(data: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return damaged(data, draw)
        place = draw.randrange(0, len(data), 512)
        return data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :]

    def read_scan(data: Case) -> object:
        assert isinstance(data, bytes)
        scan.write_bytes(data)
        return open_source(scan)

    yield Target(
        name="HDF5",
        seeds=(whole,),
        damage=block_zeroed,
        read=read_scan,
        errors=(GadgetsError,),
        full=5_000,
        short=6,
        slow_s=90,
    )
    record = folder / "record"
    record.mkdir()

    def reframed(data: bytes, draw: random.Random) -> bytes:
        """Damage messages inside of frames whose sums are right, or the frames themselves."""
        if draw.random() < 0.5:
            return damaged(data, draw)
        parts = [damaged(write_message(m), draw) for m in draw.sample(_messages(), 3)]
        return MAGIC + b"".join(FRAME.pack(len(p), zlib.crc32(p)) + p for p in parts)

    def read_a_record(data: Case) -> object:
        assert isinstance(data, bytes)
        (record / MESSAGES).write_bytes(data)
        return list(read_record(record))

    frames = [write_message(message) for message in (Header(SCAN.header), *SCAN.lines()[:3])]
    yield Target(
        name="records",
        seeds=(MAGIC + b"".join(FRAME.pack(len(f), zlib.crc32(f)) + f for f in frames),),
        damage=reframed,
        read=read_a_record,
        errors=(ProtocolError,),
        full=100_000,
        short=200,
    )
    yield from _weight_targets(folder)
    yield from _key_targets(folder)


def _weight_targets(folder: Path) -> Iterator[Target]:
    place = folder / "weights"
    save_weights(MoDL(4, 1, 2), place, {})
    card = place.with_suffix(".json").read_text()
    tensors = place.with_suffix(".safetensors").read_bytes()

    def read_card(text: Case) -> object:
        assert isinstance(text, str)
        place.with_suffix(".json").write_text(text, errors="surrogatepass")
        return load_weights(str(place))

    def read_tensors(data: Case) -> object:
        import hashlib

        assert isinstance(data, bytes)
        place.with_suffix(".safetensors").write_bytes(data)
        told = {**json.loads(card), "sha256": hashlib.sha256(data).hexdigest()}
        place.with_suffix(".json").write_text(json.dumps(told))
        return load_weights(str(place))

    yield Target(
        name="cards of weights",
        seeds=(card,),
        damage=damaged_json,
        read=read_card,
        errors=(WeightsError,),
        full=50_000,
        short=60,
    )
    yield Target(
        name="tensors of weights",
        seeds=(tensors,),
        damage=damaged,
        read=read_tensors,
        errors=(WeightsError,),
        full=50_000,
        short=60,
    )


def _key_targets(folder: Path) -> Iterator[Target]:
    made = make_keys(folder / "keys", ["scanner"])
    host, client = made[0], made[1]

    def replaced(path: Path, load_them: Callable[[Path], object], at: Path) -> Target:
        def read(data: Case) -> object:
            assert isinstance(data, bytes)
            path.write_bytes(data)
            return load_them(at)

        return Target(
            name=f"keys, {path.parent.name}/{path.name}",
            seeds=(path.read_bytes(),),
            damage=damaged,
            read=read,
            errors=(ConfigError,),
            full=20_000,
            short=40,
        )

    yield replaced(client / "server.pub", ClientKeys.load, client)
    yield replaced(host / "allowed/scanner.pub", ServerKeys.load, host)
    yield replaced(client / "client.key", ClientKeys.load, client)


def _messages() -> list[Message]:
    image = np.zeros(1, IMAGE_HEADER)[0]
    image["matrix_size"], image["channels"], image["data_type"] = (3, 2, 1), 1, 5
    waveform = np.zeros(1, WAVEFORM_HEADER)[0]
    waveform["channels"], waveform["number_of_samples"] = 2, 3
    return [
        ConfigFile("cg_sense.xml"),
        ConfigScript(b"<configuration/>"),
        Header(SCAN.header),
        Text("a text"),
        Query(7, "gadgetron::info::memory"),
        Feedback("AdaptiveMask", struct.pack("<I", 3) + b"abc"),
        SCAN.lines()[0],
        Image(header=image, data=np.zeros((1, 1, 2, 3), np.float32), meta={"a": "b"}),
        Waveform(header=waveform, data=np.zeros((2, 3), np.uint32)),
        Close(),
    ]


def _mask_messages(token: str) -> tuple[MaskMessage, Applied]:
    mask = MaskMessage(
        message_id="0f8fad5b-d9cb-469f-a165-70867728950e",
        scan_token=token,
        sequence_no=1,
        scope=SLICE,
        ky_min=0,
        ky_max=95,
        counters=CHOSEN,
        model="m",
        reason="predicted",
    )
    applied = Applied(
        scan_token=token,
        scope=Scope(slice=3),
        ky_min=0,
        ky_max=95,
        counters=CHOSEN,
        fallback=False,
        reason="",
        message_id=mask.message_id,
    )
    return mask, applied
