"""Tasks for the process that reads HDF5, which do what a damaged file makes of sound ones."""

import os
from typing import Any

import h5py
import numpy as np


def spin(file: h5py.File) -> Any:
    """Do not end."""
    while True:
        pass


def take(file: h5py.File, n_bytes: int) -> Any:
    """Take memory."""
    return {"taken": np.ones(n_bytes, np.uint8).size}, []


def die(file: h5py.File) -> Any:
    """End the process, as a fault in HDF5's library does."""
    os.abort()


def arrays(file: h5py.File) -> Any:
    """Give arrays, one of them in pieces and one without values."""
    pieces = [np.arange(2, dtype=np.float32), np.arange(2, 5, dtype=np.float32)]
    return {}, [np.ones((2, 3), np.complex64), pieces, np.zeros((0, 4))]
