"""NHLBI compression of readouts, as Gadgetron's client sends it with `-P` or `-T`.

A block is u64 number of values, f32 scale, u8 bits, then that many integers of `bits` bits each,
two's complement, packed without gaps from the lowest bit of the first byte; a value is its integer
divided by the scale. Real and imaginary parts alternate.
"""

import math
import struct

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError

_HEAD = struct.Struct("<QfB")
MAX_BITS = 32
MAX_VALUES = 1 << 23  # complex samples of a readout: 256 coils of 32768
_WINDOW = 5  # bytes
_AT_ONCE = 1 << 18  # integers: what is on the way stays in the caches


def decompress(block: bytes, n_values: int) -> NDArray[np.complex64]:
    """Decode a block of `n_values` complex samples.

    Raises
    ------
    ProtocolError
        If the block does not hold so many, or its numbers cannot be.
    """
    if n_values > MAX_VALUES:
        raise ProtocolError(
            f"a compressed readout of {n_values} samples declared, at most {MAX_VALUES} are read"
        )
    if len(block) < _HEAD.size:
        raise ProtocolError(f"a compressed readout of {len(block)} bytes has no room for its head")
    count, scale, bits = _HEAD.unpack_from(block)
    n_bytes = -(-count * bits // 8)
    if count != 2 * n_values or not 1 <= bits <= MAX_BITS or len(block) < _HEAD.size + n_bytes:
        raise ProtocolError(
            f"a compressed readout declares {count} values of {bits} bits in {len(block)} bytes, "
            f"expected {2 * n_values} values of 1 to {MAX_BITS} bits"
        )
    if not math.isfinite(scale) or scale <= 0:
        raise ProtocolError(f"a compressed readout has scale {scale}, expected more than 0")
    packed = np.zeros(n_bytes + _WINDOW, np.uint8)
    packed[:n_bytes] = np.frombuffer(block, np.uint8, n_bytes, _HEAD.size)
    values = np.empty(count, np.float32)
    for start in range(0, count, _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        part[:] = _integers(packed, start, part.size, bits) / scale
    samples: NDArray[np.complex64] = values.view(np.complex64)
    return samples


def _integers(packed: NDArray[np.uint8], start: int, n: int, bits: int) -> NDArray[np.int64]:
    """Return `n` integers from the one numbered `start` on."""
    first = np.arange(start, start + n, dtype=np.int64) * bits  # bit of each
    at, shift = first >> 3, (first & 7).astype(np.uint64)
    window = np.zeros(n, np.uint64)
    for byte in range(_WINDOW):  # 32 bits may begin within a byte, and so lie in five
        window |= packed[at + byte].astype(np.uint64) << np.uint64(8 * byte)
    unsigned = ((window >> shift) & np.uint64((1 << bits) - 1)).astype(np.int64)
    sign = np.int64(1 << (bits - 1))
    return (unsigned ^ sign) - sign  # two's complement
