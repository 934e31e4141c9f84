"""Files that amplify, parts of nets, saves that follow each other, number types, and the names of what is left out."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import metanet
from metanet.checkpoint import load, save
from metanet.errors import CheckpointError, MetanetError

STATE = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).state_dict()
DEEP = b"N" + b"\x85" * 200_000


def saved(content: object, zipped: bool = True) -> bytes:
    data = io.BytesIO()
    torch.save(content, data, _use_new_zipfile_serialization=zipped)
    return data.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        b"}" + DEEP + b"K\x01s.",
        b"}(" + DEEP + b"K\x01u.",
        b"(" + DEEP + b"K\x01d.",
        b"\x8f(" + DEEP + b"\x90.",
        b"(" + DEEP + b"\x91.",
        b"c__builtin__\nset\n(" + DEEP + b"l\x85R.",
        b"c__builtin__\nfrozenset\n(" + DEEP + b"l\x85R.",
        b"ccollections\nOrderedDict\n((" + DEEP + b"K\x01ll\x85R.",
        b"ca\nb\n)\x81" + DEEP + b"K\x01s.",
        b"}N" + b"2\x86" * 60 + b"K\x01s.",  # a few bytes whose hash takes 2^60 steps
        DEEP + b"Q.",
        b"(]" * 200_000 + b"." * 2,
    ],
)
def test_nothing_in_a_pickle_recurses_in_c(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + body)
    code = (
        f"import metanet\ntry: metanet.load({str(tmp_path / 'a.pkl')!r})\nexcept metanet.errors.MetanetError: print(5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr[-500:]


def test_tuples_as_keys_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(saved({("a", (1, 2)): torch.ones(2), "set": {("b", 1)}}))
    assert len(load(tmp_path / "a.pt").tensors) == 1


def encoded(times: int) -> bytes:
    text = b"X" + struct.pack("<I", 2_000_000) + b"\xc3\xa9" * 1_000_000
    return b"\x80\x04c_codecs\nencode\n\x94" + text + b"\x94" + b"h\x00h\x01\x85R" * times + b"."


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.write_bytes(b"\x80\x04" + b"\x8f" * 1_000_000 + b"."),
        lambda p: p.write_bytes(b"\x80\x04N" + b"\x94" * 1_500_000 + b"."),
        lambda p: p.write_bytes(b"\x80\x04" + b"(" * 1_000_000 + b"."),
        lambda p: p.write_bytes(encoded(300)),
        lambda p: torch.save([torch.zeros(1).expand(50_000 + i) for i in range(3000)], p),
        lambda p: torch.save([torch._neg_view(torch.zeros(9).expand(50_000 + i, 9)) for i in range(3000)], p),
        lambda p: p.write_bytes(b"\x08\x08\x3a\x80\x89\x7a" + b"\x0a\x00" * 1_000_000),
    ],
    ids=["sets", "memo", "marks", "encodings", "expanded", "negated", "nodes"],
)
def test_small_files_do_not_become_large(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"bytes of memory, accepted are [\d,]+ for a file that stores"):
        load(tmp_path / "a.pt")


def test_shards_share_one_budget(tmp_path: Path) -> None:
    names = {}
    for number in range(4):
        np.savez_compressed(tmp_path / f"{number}.npz", **{f"w{number}": np.zeros(10**7, np.float32)})
        names[f"w{number}"] = f"{number}.npz"
    assert load(tmp_path / "0.npz").numel == 10**7
    (tmp_path / "a.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match="bytes of memory, accepted are"):
        load(tmp_path / "a.index.json")


@pytest.mark.parametrize("zipped", [True, False])
def test_only_one_save_is_in_a_file(tmp_path: Path, zipped: bool) -> None:
    one, other = saved(STATE, zipped), saved({"x": torch.ones(2)})
    for data in (one + one, one + other, one + b"more", one + bytes(40)):
        (tmp_path / "a.pt").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"several|follow"):
            load(tmp_path / "a.pt")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(2)}) + pickle.dumps({"optimizer": 1}))
    with pytest.raises(CheckpointError, match="bytes follow the first save"):
        load(tmp_path / "a.pkl")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_appended_to_or_cut(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(500))
    whole = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("w.npy", b"again")
    with pytest.raises(CheckpointError, match=r"holds 'w.npy' 2 times"):
        load(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(whole[:-300])
    with pytest.raises(CheckpointError, match="truncated"):
        load(tmp_path / "a.npz")


def test_two_hdf5_files_or_two_onnx_graphs(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [b"d"]
        file.create_group("d").attrs["weight_names"] = [b"d/kernel:0"]
        file["d/d/kernel:0"] = np.ones((3, 2), np.float32)
    data = (tmp_path / "a.h5").read_bytes()
    assert load(tmp_path / "a.h5").numel == 6
    (tmp_path / "a.h5").write_bytes(data * 2)
    with pytest.raises(CheckpointError, match="bytes follow the HDF5 file"):
        load(tmp_path / "a.h5")
    pytest.importorskip("onnx")
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08\x3a\x02\x0a\x00\x3a\x02\x0a\x00")
    with pytest.raises(CheckpointError, match="holds 2 graphs"):
        load(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "name",
    [
        "model-00001-of-00003.safetensors",
        "pytorch_model-00001-of-00002.bin",
        "__0_0.distcp",
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "consolidated.03.pth",
    ],
)
def test_a_part_of_a_model_is_not_taken_for_the_whole(tmp_path: Path, name: str) -> None:
    content = save(tmp_path / "a.safetensors", STATE).read_bytes() if name.endswith("tensors") else saved(STATE)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"part|distributed"):
        load(tmp_path / name)
    whole = tmp_path / "model-00001-of-00001.safetensors"
    assert len(load(save(whole, STATE)).tensors) == 4


def test_checkpoints_that_say_how_many_processes_there_were(tmp_path: Path) -> None:
    for content in ({"module": STATE, "mp_world_size": 2}, {"model": STATE, "args": {"tensor_model_parallel_size": 4}}):
        (tmp_path / "a.pt").write_bytes(saved(content))
        with pytest.raises(CheckpointError, match=r"one of [24] processes"):
            load(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(saved({"module": STATE, "mp_world_size": 1}))
    assert len(load(tmp_path / "a.pt").tensors) == 4
    (tmp_path / "a.pt").write_bytes(saved({"layer._flat_param": torch.ones(9)}))
    with pytest.raises(CheckpointError, match="slice of the flattened parameters"):
        load(tmp_path / "a.pt")


def test_everything_that_is_left_out_is_named(tmp_path: Path) -> None:
    net = nn.Linear(4, 2)
    net.scale, net.history = torch.ones(3), [torch.ones(1)]
    steps = torch.optim.Adam(net.parameters())
    content = {
        "generator": net.state_dict(),
        "discriminator": {"state": net.state_dict(), "alpha": 0.5},
        "g_optim": steps.state_dict(),
        "curves": [1.0, 2.0],
        "empty": [],
    }
    (tmp_path / "a.pt").write_bytes(saved(content))
    got = load(tmp_path / "a.pt")
    assert list(got.tensors) == [
        "generator.weight", "generator.bias", "discriminator.state.weight", "discriminator.state.bias",
    ]  # fmt: skip
    assert sorted(got.metadata["left_out"].split(", ")) == ["curves", "discriminator.alpha", "g_optim"]
    (tmp_path / "a.pt").write_bytes(saved({"model": net, "ema": net.state_dict(), "sched": {"a": 1}}))
    named = load(tmp_path / "a.pt").metadata["left_out"].split(", ")
    assert sorted(named) == ["ema", "model.history", "model.scale", "sched"]


CODES = torch.arange(-12, 12, dtype=torch.int8).reshape(6, 4)


@pytest.mark.parametrize(
    "state",
    [
        {"0.weight": CODES, "0.bias": torch.ones(6)},
        {"layer": CODES, "other": CODES},
        {"a.W_q": CODES.to(torch.uint8), "a.norm": torch.ones(3, 3)},
        {"mlp.up_blocks": CODES.to(torch.uint8), "mlp.up_scales": torch.ones(6, 1), "x": torch.ones(2, 2)},
        {"a.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "a.weight_scale": torch.ones(1)},
        {"a.weight": CODES.to(torch.int32), "a.scales": torch.ones(6, 1)},
    ],
)
def test_codes_are_not_read_as_weights(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    (tmp_path / "a.pt").write_bytes(saved(state))
    with pytest.raises(CheckpointError, match="quantised"):
        load(tmp_path / "a.pt")


def test_masks_and_indices_are_read(tmp_path: Path) -> None:
    state = {
        "attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8).tril(),
        "index": torch.arange(9).reshape(3, 3),
        "weight": torch.ones(3, 3),
    }
    (tmp_path / "a.pt").write_bytes(saved(state))
    assert list(load(tmp_path / "a.pt").tensors) == list(state)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float8_e5m2, torch.complex64])
def test_graphs_are_made_of_real_numbers(kind: torch.dtype) -> None:
    space = metanet.trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.ones(1, 4))
    with pytest.raises(MetanetError, match=r"'0\.weight' holds"):
        metanet.NeuronGraph.from_state_dicts(space, [{name: tensor.to(kind) for name, tensor in STATE.items()}])


def test_metadata_of_safetensors_may_be_null(tmp_path: Path) -> None:
    header = b'{"__metadata__":null,"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert load(tmp_path / "a.safetensors").metadata == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"size": 6', '"size": -6'),
        ('"size": 6', '"size": []'),
        ('"target_dims": [0]', '"target_dims": [[]]'),
        ('"target_dims": [0]', '"target_dims": [7]'),
        ('"tensor": "0.weight"', '"tensor": "x"'),
    ],
)
def test_a_damaged_space_in_a_file_is_one_error(old: str, new: str) -> None:
    text = metanet.trace(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.ones(1, 4)).to_json()
    assert old in text
    with pytest.raises(MetanetError):
        metanet.WeightSpace.from_json(text.replace(old, new))
