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


def decompress(block: bytes, n_values: int) -> NDArray[np.complex64]:
    """Decode a block of `n_values` complex samples.

    Raises
    ------
    ProtocolError
        If the block does not hold so many, or its numbers cannot be.
    """
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
    packed = np.frombuffer(block, np.uint8, n_bytes, _HEAD.size)
    # the last bit counts negative: that is two's complement
    weights = 2.0 ** np.arange(bits)
    weights[-1] *= -1
    one_by_one = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    integers = one_by_one @ weights
    samples: NDArray[np.complex64] = (integers / scale).astype(np.float32).view(np.complex64)
    return samples
