"""Where a node of the C++ Gadgetron reconstructs."""

from typing import Any

import pytest
import torch

from gadgets import external


@pytest.mark.parametrize(
    ("attribute", "has_cuda", "device"),
    [
        ("", True, "cuda"),
        ("", False, "cpu"),
        ('device="auto"', True, "cuda"),
        ('device="auto"', False, "cpu"),
        ('device="cpu"', True, "cpu"),
        ('device="cuda:1"', True, "cuda:1"),
    ],
)
def test_auto_is_the_gpu_where_there_is_one(
    attribute: str, has_cuda: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    class NoWorker:
        def __init__(self, device: str, own: object) -> None:
            started.append(device)

        def open(self, *_: Any) -> None:
            return None

    monkeypatch.setattr(external, "Worker", NoWorker)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    one = external.OneScan(f"<configuration {attribute}/>".encode())
    one._open_worker("", "", lambda image: None)
    assert started == [device]
