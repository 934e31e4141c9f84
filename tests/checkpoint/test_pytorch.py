"""Files of torch.save, zip and legacy, in all the shapes that people save."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metanet.checkpoint import load
from metanet.errors import CheckpointError

BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


def same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return list(got) == list(wanted) and all(
        got[name].dtype == value.dtype and torch.equal(got[name], value.detach()) for name, value in wanted.items()
    )


def put(path: Path, content: object, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@BOTH
def test_a_state_dict_comes_back_in_order(tmp_path: Path, zipped: bool) -> None:
    state = net().state_dict()
    got = load(put(tmp_path / "a.pt", state, zipped))
    assert same(got.tensors, state)
    assert got.format == "pytorch"
    assert got.numel == sum(value.numel() for value in state.values())


@BOTH
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "ema", "anything at all"])
def test_a_state_dict_below_any_key(tmp_path: Path, key: str, zipped: bool) -> None:
    model = net()
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 1, 4, 4)).sum().backward()
    optimiser.step()
    state = {"epoch": 3, key: model.state_dict(), "optimizer": optimiser.state_dict(), "note": "hello"}
    got = load(put(tmp_path / "a.pt", state, zipped))
    assert same(got.tensors, model.state_dict())
    assert got.metadata == {"epoch": "3", "note": "hello", "left_out": "optimizer"}


def test_deep_wrapping(tmp_path: Path) -> None:
    state = net().state_dict()
    assert same(load(put(tmp_path / "a.pt", {"payload": {"run": {"model": state}}})).tensors, state)


def test_an_optimiser_is_left_out_whatever_its_key(tmp_path: Path) -> None:
    model = net()
    optimiser = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.zeros(2, 1, 4, 4)).sum().backward()
    optimiser.step()
    got = load(put(tmp_path / "a.pt", {"foo": model.state_dict(), "bar": optimiser.state_dict()}))
    assert same(got.tensors, model.state_dict())


def test_several_nets_keep_their_keys(tmp_path: Path) -> None:
    first, second = net().state_dict(), nn.Linear(2, 2).state_dict()
    got = load(put(tmp_path / "a.pt", {"generator": first, "critic": second, "step": 7}))
    assert list(got.tensors) == [*(f"generator.{name}" for name in first), "critic.weight", "critic.bias"]
    assert same(got.select("critic").tensors, second)
    with pytest.raises(CheckpointError, match=r"no tensor is below 'decoder' .*critic, generator"):
        got.select("decoder")


def test_a_moving_average_beside_the_net_is_left_out(tmp_path: Path) -> None:
    state = net().state_dict()
    averaged = {name: value + 1 for name, value in state.items()}
    got = load(put(tmp_path / "a.pt", {"ema_model": averaged, "model": state}))
    assert same(got.tensors, state)
    assert got.metadata["left_out"] == "ema_model"


def test_lists_of_state_dicts(tmp_path: Path) -> None:
    states = [nn.Linear(2, 3).state_dict(), nn.Linear(3, 1).state_dict()]
    got = load(put(tmp_path / "a.pt", {"models": states}))
    assert list(got.tensors) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert same(got.select("1").tensors, states[1])
    assert list(load(put(tmp_path / "b.pt", list(net().parameters()))).tensors) == ["0", "1", "2", "3", "4", "5"]
    assert list(load(put(tmp_path / "c.pt", torch.ones(3))).tensors) == ["tensor"]


def test_numbers_among_the_tensors_are_metadata(tmp_path: Path) -> None:
    state = {**net().state_dict(), "label": 4}
    got = load(put(tmp_path / "a.pth", state))
    assert "label" not in got.tensors
    assert got.metadata == {"label": "4"}


def test_lightning(tmp_path: Path) -> None:
    model = net()
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 1, 4, 4)).sum().backward()
    optimiser.step()
    content = {  # the layout of Trainer.save_checkpoint in Lightning 2.6
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimiser.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"width": 4, "encoder": net()},
    }
    got = load(put(tmp_path / "a.ckpt", content))
    assert same(got.tensors, model.state_dict())
    assert got.metadata["pytorch-lightning_version"] == "2.6.6"
    assert got.metadata["left_out"] == "loops, callbacks, optimizer_states, hyper_parameters"


class Custom(nn.Module):
    """A module of a class that the reader cannot import."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = net()
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.register_buffer("mean", torch.full((2,), 3.0))
        self.heads = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 1, bias=False)])
        self.tied = self.heads[0]


@BOTH
def test_a_whole_module_is_read_as_its_state_dict(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Custom()
    wanted = module.state_dict()
    put(tmp_path / "bare.pt", module, zipped)
    put(tmp_path / "nested.pt", {"model": module, "epoch": 1}, zipped)
    monkeypatch.delattr(__import__("sys").modules[Custom.__module__], "Custom")
    for name in ("bare.pt", "nested.pt"):
        got = load(tmp_path / name)
        assert same(got.tensors, wanted)
        tied, original = got.tensors["tied.weight"], got.tensors["heads.0.weight"]
        assert tied.data_ptr() == original.data_ptr()


@BOTH
def test_types_strides_and_ties(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "tied": base,
        "parameter": nn.Parameter(torch.ones(2)),
    }
    state |= {
        str(dtype): torch.arange(5).to(dtype)
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16)
    }
    state |= {str(dtype): torch.arange(5).to(dtype) for dtype in (torch.int32, torch.bool, torch.complex64)}
    got = load(put(tmp_path / "a.pt", state, zipped)).tensors
    assert same(got, state)
    assert got["transposed"].data_ptr() == got["tied"].data_ptr()
    assert got["slice"].untyped_storage().data_ptr() == got["tied"].untyped_storage().data_ptr()


@BOTH
def test_lazily_conjugated_and_negated_tensors(tmp_path: Path, zipped: bool) -> None:
    value = torch.tensor([1 + 2j, -3 - 4j])
    for lazy in (value.conj(), value.conj().imag):  # torch.save keeps the values as they are, and notes the rest
        assert lazy.is_conj() or lazy.is_neg()
        got = load(put(tmp_path / "a.pt", {"w": lazy}, zipped)).tensors["w"]
        assert torch.equal(got, lazy)
        assert not got.is_conj()
        assert not got.is_neg()


def test_keys_that_are_no_text(tmp_path: Path) -> None:
    state = {b"w": torch.ones(1), None: torch.zeros(1), ("a", 1): torch.ones(2), ((),): torch.ones(3), 4: torch.ones(4)}
    assert list(load(put(tmp_path / "a.pt", state)).tensors) == ["w", "None", "('a', 1)", "#3", "4"]


def test_unsigned_types(tmp_path: Path) -> None:
    state = {"table": torch.arange(3).to(torch.uint16), "weight": torch.ones(2, 2)}
    assert same(load(put(tmp_path / "a.pt", state)).tensors, state)


@pytest.mark.parametrize("kind", [name for name in dir(torch) if name.startswith("float8_")])
def test_every_float8_number_is_read_exactly(tmp_path: Path, kind: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(getattr(torch, kind))
    got = load(put(tmp_path / "a.pt", {"weight": codes})).tensors["weight"]
    assert torch.equal(got.double().nan_to_num(7.0), codes.double().nan_to_num(7.0))
    assert got.dtype == torch.bfloat16


def test_plain_pickles_of_arrays_and_tensors(tmp_path: Path) -> None:
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "f": np.asfortranarray(np.ones((2, 3), ">f8") * 2)}
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps({"model": values, "tensor": torch.ones(2), "acc": np.float64(0.5)}, protocol))
        got = load(path).tensors
        assert torch.equal(got["w"] if "w" in got else got["model.w"], torch.from_numpy(values["w"]))
    path.write_bytes(pickle.dumps({"a": values, "b": OrderedDict(t=torch.arange(3.0))}))
    got = load(path).tensors
    assert torch.equal(got["a.f"], torch.full((2, 3), 2.0, dtype=torch.float64))
    assert torch.equal(got["b.t"], torch.arange(3.0))


def test_only_the_wanted_storages_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metanet.checkpoint.archive import Archive

    reads: list[str] = []
    read = Archive.read
    monkeypatch.setattr(Archive, "read", lambda self, name: reads.append(name) or read(self, name))
    load(
        put(tmp_path / "a.pt", {"model": {"a.w": torch.ones(3)}, "optimizer": {"m": torch.ones(9), "v": torch.ones(9)}})
    )
    assert len([name for name in reads if "/data/" in name]) == 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: {"w": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)}, "'w' is a quantised tensor"),
        (lambda: {"w": torch.eye(3).to_sparse()}, "'w' is a sparse tensor"),
        (lambda: {"w": torch.empty(3, device="meta")}, "'w' is a meta tensor"),
        (lambda: {"w": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, "'w' holds quantised numbers"),
        (lambda: {"epoch": 3, "lr": 0.1}, "no tensors in it .*dict with keys epoch, lr"),
        (
            lambda: {"l.weight": torch.zeros(8, 1, dtype=torch.uint8), "l.weight.absmax": torch.ones(1)},
            "quantised weight.*absmax",
        ),
        (
            lambda: {"l.qweight": torch.zeros(8, 1, dtype=torch.int32), "l.scales": torch.ones(1)},
            "qweight' is a quantised weight",
        ),
        (lambda: {"l.weight": torch.zeros(8, 1, dtype=torch.int8), "l.SCB": torch.ones(1)}, "quantised weight.*SCB"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch announces the end of its quantised tensors
def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, make: Callable[[], object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        load(put(tmp_path / "a.pt", make()))


def test_integer_tables_are_not_taken_for_quantised(tmp_path: Path) -> None:
    state = {"table": torch.zeros(3, dtype=torch.int8), "scale": torch.ones(1), "weight": torch.ones(2, 2)}
    assert same(load(put(tmp_path / "a.pt", state)).tensors, state)


def test_a_view_that_repeats_its_storage_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'w': a tensor of size \[1099511627776\] would take 4,398,"):
        load(put(tmp_path / "a.pt", {"w": torch.zeros(1).expand(2**40)}))


def test_a_view_past_its_storage_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    torch.save({"w": torch.ones(2)}, data, _use_new_zipfile_serialization=False)
    damaged = data.getvalue().replace(b"K\x00K\x02\x85", b"K\x00K\x63\x85")  # size (2,) -> (99,)
    assert damaged != data.getvalue()
    (tmp_path / "a.pt").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"'w': its values are truncated \(got 8 bytes, 396 needed\)"):
        load(tmp_path / "a.pt")
