"""A few bytes under very many names: copies of them are refused, or never all in memory."""

import json
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import metanet
from metanet.checkpoint import load, save
from metanet.errors import MetanetError, SpaceError
from metanet.graph import NeuronGraph
from metanet.graph.build import SPACE_KEY
from metanet.space.recognise.naming import shared_names
from metanet.zoo import import_zoo

LAYERS, WIDTH = 160, 256
WAYS = {
    "tied": lambda: torch.ones(WIDTH, WIDTH),
    "expanded": lambda: torch.ones(1, 1).expand(WIDTH, WIDTH),
    "negated": lambda: torch._neg_view(torch.ones(WIDTH, WIDTH)),
}


@pytest.fixture(scope="module")
def space() -> metanet.WeightSpace:
    """The space of a chain of 160 layers, 42 MB in float32."""
    layers = [m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU())]
    return metanet.trace(nn.Sequential(*layers), torch.zeros(1, WIDTH))


def repeated(space: metanet.WeightSpace, way: str) -> dict[str, Tensor]:
    return dict.fromkeys(space.tensor, WAYS[way]())


@pytest.mark.parametrize("way", WAYS)
def test_shared_tensors_become_no_graph_and_no_zoo(space: metanet.WeightSpace, way: str, tmp_path: Path) -> None:
    """The file declares a space of its own, so that nothing is inferred and ties are not seen there."""
    folder = tmp_path / "nets"
    folder.mkdir()
    torch.save({"state_dict": repeated(space, way), "metadata": {SPACE_KEY: space.to_json()}}, folder / "a.pt")
    (folder / "labels.csv").write_text("file,accuracy\na.pt,0.5\n")
    with pytest.raises(MetanetError, match="share their memory: a copy of each would take 41,943,040 bytes"):
        import_zoo("folder", folder, tmp_path / "zoo")
    with pytest.raises(SpaceError, match="share their memory"):
        NeuronGraph.from_state_dicts(space, [load(folder / "a.pt").tensors])


def test_nets_of_one_block_of_memory_are_stacked(space: metanet.WeightSpace) -> None:
    """Views that do not overlap hold all that a copy of them takes."""
    block = torch.ones(LAYERS, WIDTH, WIDTH)
    graph = NeuronGraph.from_state_dicts(space, [dict(zip(space.tensor, block, strict=True))])
    assert graph.batch_size == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc")
def test_saving_shared_tensors_takes_no_memory(tmp_path: Path) -> None:
    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(text.split()[1]) for text in lines if text.startswith(field)) << 10

    one = torch.ones(512, 512)
    state = {f"w{i}": one.t() for i in range(120)}
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    file = save(tmp_path / "a.safetensors", state)
    assert status("VmHWM") - before < 32 << 20
    assert file.stat().st_size > 120 << 20


def test_saved_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    types = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool)
    state = {f"{name}{i}": torch.arange(6).reshape(2, 3).to(d).t() for i, d in enumerate(types) for name in "zä"}
    state |= {"empty": torch.empty(0, 3), "scalar": torch.tensor(2.0), "neg": torch._neg_view(torch.ones(2))}
    ours = save(tmp_path / "a.safetensors", state, {"note": "ü"}).read_bytes()
    theirs = safetensors.torch.save({n: t.resolve_neg().contiguous() for n, t in state.items()}, {"note": "ü"})
    length = [int.from_bytes(data[:8], "little") for data in (ours, theirs)]
    assert ours[8 + length[0] :] == theirs[8 + length[1] :]
    assert json.loads(ours[8 : 8 + length[0]]) == json.loads(theirs[8 : 8 + length[1]])
    assert list(json.loads(ours[8 : 8 + length[0]]))[1:] == list(state)


def test_a_type_that_safetensors_lacks_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(MetanetError, match="safetensors has no type for 'w'"):
        save(tmp_path / "a.safetensors", {"w": torch.ones(2, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())


def test_ties_are_found_in_time_that_grows_with_the_names() -> None:
    """Tied names, and equal copies under names that are usually tied, at 1,500 names each."""
    one, names = torch.ones(64), [f"x{i}.weight" for i in range(1500)]
    start = time.process_time()
    assert shared_names(dict.fromkeys(names, one)) == set(names) - {min(names)}
    heads = {f"x{i}.lm_head.weight": one.clone() for i in range(1500)}
    assert shared_names(heads) == set(heads) - {min(heads)}
    assert time.process_time() - start < 5
    pair = {"embed.weight": one, "other.weight": one + 1, "lm_head.weight": one.clone(), "also.weight": one + 1}
    assert shared_names(pair) == {"lm_head.weight"}
