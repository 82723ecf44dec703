"""Where a node of the C++ Gadgetron reconstructs, and when it begins to load what that takes."""

import pytest
import torch

from gadgets import external
from gadgets.pipeline.models import chosen_device


@pytest.mark.parametrize(
    ("device", "has_cuda", "expected"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda:1", True, "cuda:1"),
    ],
)
def test_auto_is_the_gpu_where_there_is_one(
    device: str, has_cuda: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert chosen_device(device) == expected


@pytest.mark.parametrize(
    ("attribute", "device"), [("", "auto"), ('device="cpu"', "cpu"), ('device="cuda:1"', "cuda:1")]
)
def test_the_worker_of_a_node_starts_while_the_node_is_warming(
    attribute: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    class NoWorker:
        def __init__(self, device: str, own: object) -> None:
            started.append(device)

        def open(self, xml: str, header: str, on_image: object) -> str:
            return f"{xml}, {header}"

    monkeypatch.setattr(external, "Worker", NoWorker)
    services = external.OneScan(f"<configuration {attribute}/>".encode()).services()
    assert started == []
    services.wait_warm()
    assert started == [device]
    assert services.open_worker("pipeline", "header", lambda image: None) == "pipeline, header"
    assert started == [device]
