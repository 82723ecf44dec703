import hashlib
import json
import resource

import pytest
import torch

from mnet.masks.patterns import Pattern
from mnet.recon.modl import MoDL
from mnet.recon.unet import UNetReconstructor
from mnet.sampler.experts import MNetExperts
from mnet.sampler.mnet import MNet
from mnet.sampler.mnet_select import MNetSelect
from mnet.sampler.paper_mnet import PaperMNet
from mnet.weight_files import (
    ARCHITECTURES,
    WeightsError,
    folder,
    load_weights,
    read_card,
    save_weights,
)

MODELS = [
    MoDL(4, 2, 3),
    UNetReconstructor(4, 2),
    MNet(8, 16, rich=True),
    MNetSelect(
        patterns=[Pattern(reach=(0.1, 0.5, 1.0), upper=(True, False, True)).to_json()],
        table={"acceleration": [2.0, 4.0], "loss": [[0.1] * 15, [0.2] * 15]},
        n_channels=4,
        n_embedding=8,
        n_members=2,
        margin=0.01,
        n_swaps=3,
    ),
    MNetExperts(
        patterns=[
            {
                "name": "population",
                "pattern": Pattern(reach=(0.1, 0.5, 1.0), upper=(True, False, True)).to_json(),
            }
        ]
    ),
    PaperMNet(163, 170, n_channels=2),
]


def test_every_architecture_is_tried_here():
    assert {type(model).__name__ for model in MODELS} == set(ARCHITECTURES)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_the_two_files_alone_rebuild_the_model(model, tmp_path):
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    save_weights(model, tmp_path / "some", {"data": ["a"]})
    loaded, card = load_weights(str(tmp_path / "some"))
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert card["data"] == ["a"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_loaded_models_give_equal_outputs_and_take_no_gradients(tmp_path):
    model = MoDL(4, 2, 2).eval()
    with torch.no_grad():
        model.denoiser.out.weight.normal_()
    save_weights(model, tmp_path / "modl", {})
    loaded, _ = load_weights(str(tmp_path / "modl"))
    kspace, csm = torch.randn(2, 1, 3, 8, 10, dtype=torch.complex64)
    mask = torch.ones(1, 10)
    with torch.no_grad():
        assert torch.equal(loaded(kspace, csm, mask), model(kspace, csm, mask))
    assert not any(value.requires_grad for value in loaded.parameters())
    assert not loaded.training


def test_a_changed_tensor_file_is_refused(tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    tensors = tmp_path / "modl.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="sha256"):
        load_weights(str(tmp_path / "modl"))


def test_weights_without_a_card_are_refused(tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    (tmp_path / "modl.json").unlink()
    with pytest.raises(WeightsError, match=r"modl\.json is missing"):
        load_weights(str(tmp_path / "modl"))


def test_a_card_without_tensors_is_refused(tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    (tmp_path / "modl.safetensors").unlink()
    with pytest.raises(WeightsError, match="missing beside its card"):
        load_weights(str(tmp_path / "modl"))


def test_a_card_that_is_not_json_is_refused(tmp_path):
    (tmp_path / "modl.json").write_text("{")
    with pytest.raises(WeightsError, match="is not JSON"):
        read_card(str(tmp_path / "modl"))


@pytest.mark.parametrize(
    "change",
    [{"class": "Pickle"}, {"config": {"n_channels": 8}}, {"config": {"no_such_thing": 1}}],
)
def test_a_card_of_another_architecture_is_refused(change, tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    path = tmp_path / "modl.json"
    card = json.loads(path.read_text())
    card["architecture"].update(change)
    path.write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="does not fit its card"):
        load_weights(str(tmp_path / "modl"))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"modl"', "[" * 5000, "\udcff"])
def test_a_card_that_is_no_object_is_refused(text, tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    (tmp_path / "modl.json").write_text(text, errors="surrogateescape")
    with pytest.raises(WeightsError, match=r"modl\.json.*JSON"):
        load_weights(str(tmp_path / "modl"))


@pytest.mark.parametrize(
    "architecture",
    [
        None,
        3,
        [],
        "MoDL",
        {},
        {"class": [], "config": {}},
        {"class": "MoDL", "config": []},
        {"class": "MoDL", "config": {"n_channels": "4"}},
        {"class": "MoDL", "config": {"n_channels": -1}},
    ],
)
def test_an_architecture_that_is_none_is_refused(architecture, tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    card = json.loads((tmp_path / "modl.json").read_text())
    (tmp_path / "modl.json").write_text(json.dumps({**card, "architecture": architecture}))
    with pytest.raises(WeightsError, match="does not fit its card"):
        load_weights(str(tmp_path / "modl"))


@pytest.mark.parametrize("guard", [None, 3, [], {}, {"limits": None}])
def test_a_guard_that_is_none_is_refused(guard, tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {"guard": guard})
    with pytest.raises(WeightsError, match=r"modl\.json.*guard"):
        load_weights(str(tmp_path / "modl"))


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}x", b"\x04\0\0\0\0\0\0\0null"]
)
def test_a_tensor_file_that_is_none_is_refused_though_its_hash_is_right(data, tmp_path):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    card = json.loads((tmp_path / "modl.json").read_text())
    (tmp_path / "modl.safetensors").write_bytes(data)
    card["sha256"] = hashlib.sha256(data).hexdigest()
    (tmp_path / "modl.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match=r"modl\.safetensors"):
        load_weights(str(tmp_path / "modl"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    model = MoDL(4, 1, 2)
    with torch.no_grad():
        next(model.parameters())[(0,) * next(model.parameters()).ndim] = value
    save_weights(model, tmp_path / "modl", {})
    with pytest.raises(WeightsError, match="expected finite weights"):
        load_weights(str(tmp_path / "modl"))


def test_an_unknown_name_lists_what_is_packaged():
    with pytest.raises(WeightsError, match="packaged"):
        read_card("no-such-weights")


def test_a_model_of_an_unknown_class_is_not_saved(tmp_path):
    with pytest.raises(WeightsError, match="cannot save a Linear"):
        save_weights(torch.nn.Linear(1, 1), tmp_path / "x", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "kind"), [("modl", MoDL), ("mnet_select", MNetSelect)])
def test_the_packaged_weights_load_and_say_where_they_come_from(name, kind):
    model, card = load_weights(name)
    assert type(model) is kind
    assert card["training"]
    assert card["validation"]
    assert card["commit"]
    assert card["data"]
    assert all(entry["licence"] for entry in card["data"])
    assert (folder() / f"{name}.safetensors").stat().st_size < 5e6


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_levels": 20}, "has shape none, by the card"),  # 10^14 bytes in one layer
        ({"n_levels": 1 << 31}, "n_levels is 2147483648, expected at most 4096"),
        ({"n_unrolls": 3}, r"gain.weight has shape \(16, 5\), by the card \(16, 6\)"),
        ({"n_channels": -8}, "does not fit its card"),
    ],
)
def test_a_card_of_another_size_is_refused_before_memory_is_taken(tmp_path, changed, words):
    save_weights(MoDL(4, 1, 2), tmp_path / "modl", {})
    card = json.loads((tmp_path / "modl.json").read_text())
    card["architecture"]["config"] |= changed
    (tmp_path / "modl.json").write_text(json.dumps(card))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=words):
        load_weights(str(tmp_path / "modl"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
