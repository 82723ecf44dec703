"""The messages of the mask channel, contract adaptive-mask/1, without any I/O.

A message is three frames: ``b"AMSK1"``, a JSON header (``schema.json``) and a payload of
bitmaps in which bit k, least significant first, is the ky counter ``ky_min + k``. `Codec` turns
frames into the dataclasses below and back; what it returns has passed the schema and `check_mask`'s
rules for a `Hello`, so that no later code meets a half-valid message.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from operator import index
from typing import Any

from .messages import (
    MAX_TEXT,
    TAGS,
    Applied,
    ErrorReason,
    Header,
    Hello,
    MaskMessage,
    Message,
    Scope,
    as_record,
)

MAGIC = b"AMSK1"
MAX_MESSAGE = 64 * 1024  # bytes, all frames together
MAX_HEADER = 16 * 1024  # bytes
LARGEST_COUNTER = 65535


class MaskProtocolError(ValueError):
    """A message that is dropped; `reason` is what the `error` reply says."""

    def __init__(self, reason: ErrorReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: ErrorReason = reason
        self.detail = detail


_BITMAPS: Mapping[type, tuple[str, ...]] = {
    Hello: ("acquirable", "fallback"),
    MaskMessage: ("counters",),
    Applied: ("counters",),
}

_SET = tuple(tuple(k for k in range(8) if byte >> k & 1) for byte in range(256))  # bits of a byte


def pack_bitmap(counters: Iterable[int], ky_min: int, ky_max: int) -> bytes:
    """Set bit ``c - ky_min``, least significant first, for every counter c; ValueError outside."""
    bits = bytearray((ky_max - ky_min + 8) // 8)
    for counter in counters:
        if not ky_min <= counter <= ky_max:
            raise ValueError(f"counter {counter} is outside {ky_min}..{ky_max}")
        k = counter - ky_min
        bits[k >> 3] |= 1 << (k & 7)
    return bytes(bits)


def unpack_bitmap(bits: bytes, ky_min: int, ky_max: int) -> tuple[int, ...]:
    """Return the ascending counters of a bitmap; ValueError if its length or spare bits are off."""
    n = ky_max - ky_min + 1
    if n < 1 or len(bits) != (n + 7) // 8:
        raise ValueError(f"bitmap has {len(bits)} bytes for counters {ky_min}..{ky_max}")
    if n % 8 and bits[-1] >> (n % 8):
        raise ValueError(f"bitmap has bits set beyond counter {ky_max}")
    return tuple(ky_min + 8 * i + k for i, byte in enumerate(bits) if byte for k in _SET[byte])


class Codec:
    """Messages to frames and back. Holds the schema's validators, so make one and keep it."""

    def __init__(self) -> None:
        from jsonschema import Draft202012Validator  # takes 0.1 s: a host listens before it

        text = resources.files(__package__).joinpath("schema.json").read_text("utf-8")
        definitions = json.loads(text)["$defs"]
        # One validator per kind, references resolved: the published oneOf would try all ten.
        self._validators = {
            kind: Draft202012Validator(_inlined(definitions["_".join(tag.values())], definitions))
            for kind, tag in TAGS.items()
        }
        self._kinds = {tuple(tag.values()): kind for kind, tag in TAGS.items()}

    def encode(self, message: Message) -> list[bytes]:
        """Return the three frames; ValueError for what has no JSON form (NaN) or is too large."""
        header = as_record(message)
        payload = b""
        for name in _BITMAPS.get(type(message), ()):
            counters = header.pop(name)
            payload += pack_bitmap(counters, header["ky_min"], header["ky_max"])
            if name == "counters":
                header["n_lines"] = len(counters)
        # default: NumPy integers are welcome
        text = json.dumps(header, allow_nan=False, separators=(",", ":"), default=index)
        frames = [MAGIC, text.encode(), payload]
        _check_size(frames)
        return frames

    def decode(self, frames: Sequence[bytes]) -> Message:
        """Return the message; raises MaskProtocolError for anything that is not one."""
        _check_size(frames)
        if len(frames) != 3 or frames[0] != MAGIC:
            raise MaskProtocolError("malformed", f"expected {MAGIC!r}, header, payload")
        try:
            header = json.loads(frames[1], parse_constant=_refuse_constant, parse_float=_number)
            return self._build(header, frames[2])
        except MaskProtocolError:
            raise
        except (ValueError, RecursionError) as error:
            raise MaskProtocolError("malformed", str(error)[:MAX_TEXT]) from error

    def _build(self, header: object, payload: bytes) -> Message:
        kind = self._validated(header)
        fields = {k: v for k, v in header.items() if k not in ("schema", "kind", "role")}  # type: ignore[attr-defined]
        if "scope" in fields:
            fields["scope"] = Scope(**fields["scope"])
        if "calibration" in fields:
            fields["calibration"] = tuple(fields["calibration"])
        fields |= _bitmaps(kind, fields, payload)
        if kind is not Hello and "n_lines" in fields:
            promised, got = fields.pop("n_lines"), len(fields["counters"])
            if promised != got:
                raise ValueError(f"header says {promised} lines, bitmap has {got}")
        message: Message = kind(**fields)
        return message

    def _validated(self, header: object) -> type:
        """Return the class that the header describes, once the schema has accepted it."""
        if not isinstance(header, dict):
            raise ValueError("header is not a JSON object")
        tag = tuple(header[key] for key in ("kind", "role") if isinstance(header.get(key), str))
        kind = self._kinds.get(tag)
        if kind is None:
            raise ValueError("header has no known kind and role")
        wrong = next(self._validators[kind].iter_errors(header), None)
        if wrong is not None:  # jsonschema's own words would echo the peer's values into logs
            rule = f"{wrong.validator}: {wrong.validator_value}"
            raise ValueError(f"{'/'.join(tag)} header at {wrong.json_path} breaks {rule}")
        counters = header.get("calibration", ())
        if not all(type(c) is int and 0 <= c <= LARGEST_COUNTER for c in counters):
            raise ValueError(f"calibration: expected counters from 0 to {LARGEST_COUNTER}")
        return kind


def _bitmaps(kind: type, fields: Header, payload: bytes) -> Header:
    names = _BITMAPS.get(kind, ())
    if not names:
        if payload:
            raise ValueError(f"expected no payload, got {len(payload)} bytes")
        return {}
    low, high = fields["ky_min"], fields["ky_max"]
    size = len(payload) // len(names)
    if size * len(names) != len(payload):
        raise ValueError(f"payload of {len(payload)} bytes is not {len(names)} bitmaps")
    parts = (payload[i * size : (i + 1) * size] for i in range(len(names)))
    return {name: unpack_bitmap(part, low, high) for name, part in zip(names, parts, strict=True)}


def _inlined(node: Any, definitions: Header) -> Any:
    """Return a schema node with every reference replaced by what it names."""
    if isinstance(node, list):
        return [_inlined(child, definitions) for child in node]
    if not isinstance(node, dict):
        return node
    named = definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else {}
    merged = {**named, **{key: child for key, child in node.items() if key != "$ref"}}
    if merged.get("items") == {"$ref": "#/$defs/counter"}:
        # `_validated` looks at counters itself: jsonschema takes 30 us for each of 2048
        del merged["items"]
    return {key: _inlined(child, definitions) for key, child in merged.items()}


def _check_size(frames: Sequence[bytes]) -> None:
    total = sum(map(len, frames))
    if total > MAX_MESSAGE or (len(frames) > 1 and len(frames[1]) > MAX_HEADER):
        raise MaskProtocolError(
            "oversized", f"{total} bytes; {MAX_MESSAGE} in all and {MAX_HEADER} of header allowed"
        )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite JSON number")


def _number(text: str) -> int | float:
    value = float(text)  # JSON knows no integers: a peer may write 3 as 3.0, as the schema allows
    return int(value) if value.is_integer() else value
