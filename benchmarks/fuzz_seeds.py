"""What ``fuzz.py`` mutates: one small CNN in every format that metanet reads, and a run that predicts from it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import metanet
from metanet.training import main as train
from metanet.zoo import ModelZoo, build_zoo, export_net, load_recipe

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "digits_accuracy.yaml"
ACTIVATION = "relu"


def make_run(folder: Path) -> tuple[Path, ModelZoo]:
    """Train a metanet of width 16 for one epoch on 40 nets, so that ``predict`` has a run."""
    zoo = build_zoo(load_recipe("digits-cnn").with_(nets=40, shard_size=10, max_steps=25), folder / "zoo", workers=0)
    size = ["--model.metanet.init_args.width=16", "--model.metanet.init_args.heads=4"]
    place = ["--trainer.default_root_dir", str(folder / "run"), "--data.zoo", str(zoo.path)]
    train(["fit", "--config", str(CONFIG), "--trainer.max_epochs=1", *size, *place])
    return folder / "run", zoo


def write_seeds(zoo: ModelZoo, folder: Path) -> dict[str, Path]:
    """Write one net of a zoo in every format.

    Returns:
        Format to the file that is mutated. The shards of an index lie beside it, unharmed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row = int(zoo.rows("test", activation=ACTIVATION)[0])
    state = dict(zoo[row].tensors)
    net = rebuild(state)
    moments = torch.optim.Adam(net.parameters())
    net(torch.zeros(1, 1, 8, 8)).sum().backward()
    moments.step()
    training = {"epoch": 1, "state_dict": state, "optimizer_states": [moments.state_dict()], "loops": {"a": [1]}}
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    seeds = {name: folder / f"seed.{name}" for name in ("pt", "pth", "ckpt", "module.pt", "pkl", "npz", "npy", "h5")}
    torch.save(state, seeds["pt"])
    torch.save(state, seeds["pth"], _use_new_zipfile_serialization=False)
    torch.save(training, seeds["ckpt"])
    torch.save(net, seeds["module.pt"])
    seeds["pkl"].write_bytes(pickled(arrays))
    np.savez_compressed(seeds["npz"], **arrays)
    np.save(seeds["npy"], arrays["fc.weight"] if "fc.weight" in arrays else next(iter(arrays.values())))
    write_h5(seeds["h5"], arrays)
    seeds["keras"] = write_keras(folder / "seed.keras", arrays)
    seeds["torchscript"] = folder / "seed.torchscript.pt"
    torch.jit.trace(net, torch.zeros(1, 1, 8, 8)).save(str(seeds["torchscript"]))
    seeds["stable-baselines3"] = write_sb3(folder / "seed.zip", state)
    seeds["onnx"] = write_onnx(folder / "seed.onnx", arrays)
    seeds["safetensors"] = metanet.checkpoint.save(folder / "seed.safetensors", state, {"note": "plain"})
    seeds["safetensors, with its space"] = export_net(zoo, row, folder / "space.safetensors")
    seeds["index"] = write_index(folder / "sharded", state)
    return seeds


class Chain(nn.Module):
    """Convolutions and linear layers under the names of a state dict, as the nets of a zoo have them."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        for name in dict.fromkeys(name.rpartition(".")[0] for name in state):
            out, inputs, *taps = state[f"{name}.weight"].shape
            layer = nn.Conv2d(inputs, out, tuple(taps)) if taps else nn.Linear(inputs, out)
            self.add_module(name, layer)
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        """Classify an image."""
        *inner, last = self.children()
        for layer in inner:
            x = torch.relu(layer(x if isinstance(layer, nn.Conv2d) else x.mean((2, 3)) if x.dim() == 4 else x))
        return last(x.mean((2, 3)) if x.dim() == 4 else x)


def rebuild(state: dict[str, Tensor]) -> Chain:
    """The module that a state dict of the zoo belongs to."""
    return Chain({name: tensor.clone() for name, tensor in state.items()})


def pickled(arrays: dict[str, Any]) -> bytes:
    """A plain pickle of arrays."""
    import pickle

    return pickle.dumps({"model": arrays, "accuracy": 0.5}, protocol=4)


def write_h5(path: Path, arrays: dict[str, Any]) -> None:
    """The layout of Keras 1 and 2, chunked and compressed, with an optimiser beside the weights."""
    with h5py.File(path, "w") as file:
        file.attrs.update(model_config=json.dumps({"class_name": "Sequential", "config": []}), keras_version="2.4.0")
        file.create_group("optimizer_weights")["m"] = np.ones(3)
        root = file.create_group("model_weights")
        layers = dict.fromkeys(name.rpartition(".")[0] for name in arrays)
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for layer in layers:
            group = root.create_group(layer)
            weight, bias = arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]
            kernel = np.ascontiguousarray(np.moveaxis(weight, (0, 1), (-1, -2)))
            group.attrs["weight_names"] = [f"{layer}/kernel:0".encode(), f"{layer}/bias:0".encode()]
            group.create_dataset(f"{layer}/kernel:0", data=kernel, chunks=True, compression="gzip")
            group[f"{layer}/bias:0"] = bias


def write_keras(path: Path, arrays: dict[str, Any]) -> Path:
    """The archive of Keras 3 around its HDF5 file."""
    memory = io.BytesIO()
    layers: list[dict[str, Any]] = []
    with h5py.File(memory, "w") as file:
        file.create_group("optimizer/vars")["0"] = np.ones(2)
        for name in dict.fromkeys(name.rpartition(".")[0] for name in arrays):
            weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
            kind, base = ("Conv2D", "conv2d") if weight.ndim > 2 else ("Dense", "dense")
            count = sum(layer["class_name"] == kind for layer in layers)
            group = file.create_group(f"layers/{base}{f'_{count}' if count else ''}/vars")
            group["0"], group["1"] = np.moveaxis(weight, (0, 1), (-1, -2)), bias
            layers.append({"class_name": kind, "config": {"name": name}})
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", memory.getvalue())
    return path


def write_sb3(path: Path, state: dict[str, Tensor]) -> Path:
    """The archive of Stable-Baselines3 around a policy."""
    policy = io.BytesIO()
    torch.save(state, policy)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", json.dumps({"n_steps": 5, "gamma": 0.9}))
        archive.writestr("policy.pth", policy.getvalue())
        archive.writestr("_stable_baselines3_version", "2.0")
    return path


def write_onnx(path: Path, arrays: dict[str, Any]) -> Path:
    """A CNN as a graph: convolutions, ReLU, mean over positions, linear layers."""
    nodes, here = [], "x"
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
    flat = False
    for number, name in enumerate(names):
        linear = arrays[f"{name}.weight"].ndim == 2
        if linear and not flat:
            nodes.append(helper.make_node("GlobalAveragePool", [here], ["pooled"]))
            nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], axis=1))
            here, flat = "flat", True
        out = f"h{number}"
        weights = [f"{name}.weight", f"{name}.bias"]
        options: dict[str, Any] = {"transB": 1} if linear else {"kernel_shape": arrays[weights[0]].shape[2:]}
        nodes.append(helper.make_node("Gemm" if linear else "Conv", [here, *weights], [out], **options))
        here = out
        if number < len(names) - 1:
            nodes.append(helper.make_node("Relu", [here], [f"r{number}"]))
            here = f"r{number}"
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    value = helper.make_tensor(f"{names[0]}.bias", TensorProto.FLOAT, arrays[f"{names[0]}.bias"].shape,
                               arrays[f"{names[0]}.bias"].tolist())  # fmt: skip
    tensors[1] = value  # as floats, not raw bytes
    shape = [1, *((1, 8, 8) if arrays[f"{names[0]}.weight"].ndim == 4 else arrays[f"{names[0]}.weight"].shape[1:])]
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, size) for end, size in (("x", shape), (here, [1, 10]))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def write_index(folder: Path, state: dict[str, Tensor]) -> Path:
    """An index beside two shards."""
    folder.mkdir(exist_ok=True)
    half = len(state) // 2
    parts = [dict(list(state.items())[:half]), dict(list(state.items())[half:])]
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, part in zip(names, parts, strict=True):
        metanet.checkpoint.save(folder / name, part)
    index = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 4}, "weight_map": index}))
    return path
