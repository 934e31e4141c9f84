"""ModelZoos, raw and prepared, and the CNN Wild Park: small folders in their layouts."""

import json
import pathlib
import random
from collections import OrderedDict

import pytest
import torch
from torch.nn.functional import conv2d, linear, max_pool2d

from metanet.errors import ZooError
from metanet.space import trace
from metanet.symmetry import certify
from metanet.zoo import import_zoo
from metanet.zoo.functions import function_of
from metanet.zoo.readers.chains import PooledBlueprint, park_cnn

SMALL = [(8, 1, 5, 5), (6, 8, 5, 5), (4, 6, 2, 2), (20, 36), (10, 20)]


def small(numbers=(0, 3, 6, 9, 11)):
    state = OrderedDict()
    for number, shape in zip(numbers, SMALL, strict=True):
        state[f"module_list.{number}.weight"] = torch.randn(shape) / 5
        state[f"module_list.{number}.bias"] = torch.randn(shape[0]) / 5
    return state


def training(folder, numbers=(0, 3, 6, 9, 11), first=1, digits=1, dropout=0.0, epochs=(1, 2)):
    folder.mkdir(parents=True)
    params = {"model::nlin": "tanh", "model::dropout": dropout, "optim::lr": 1e-3, "seed": 3, "training::batchsize": 8}
    (folder / "params.json").write_text(json.dumps(params))
    lines = [{"training_iteration": e, "test_acc": e / 10, "train_acc": e / 5, "test_loss": float("nan"), "config": {}}
             for e in range(first, 4)]  # fmt: skip
    (folder / "result.json").write_text("\n".join(map(json.dumps, lines)))
    for epoch in epochs:
        (folder / f"checkpoint_{epoch:0{digits}d}").mkdir()
        torch.save(small(numbers), folder / f"checkpoint_{epoch:0{digits}d}" / "checkpoints")
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoos") / "tune_zoo_mnist"
    for number in range(10):
        training(root / f"NN_tune_trainable_{number:02d}")
    training(root / "NN_tune_trainable_dropout", (0, 4, 8, 11, 14), dropout=0.2)
    training(root / "NN_tune_trainable_zero", first=0)
    training(root / "NN_tune_trainable_digits", digits=6)
    broken = training(root / "NN_tune_trainable_broken", epochs=(1,))
    (broken / "checkpoint_1" / "checkpoints").write_bytes(b"\x80\x02}")
    (root / "config.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def zoo(raw, tmp_path_factory):
    return import_zoo("modelzoos", raw, tmp_path_factory.mktemp("out") / "zoo")


def test_layers_are_told_by_their_order_so_dropout_does_not_shift_them(zoo):
    assert len(zoo) == 26
    (space,) = zoo.spaces.values()
    assert space.certified
    assert [a.size for a in space.free_axes] == [8, 6, 4, 20]
    assert set(zoo.column("dropout")) == {0.0, 0.2}
    assert [entry["id"] for entry in zoo.unreadable] == ["NN_tune_trainable_broken/1"]


def test_pooling_comes_before_the_nonlinearity(raw, zoo):
    image = torch.randn(3, 1, 28, 28)
    net = zoo[int(zoo.rows(id="NN_tune_trainable_dropout/2")[0])]
    state = torch.load(raw / "NN_tune_trainable_dropout" / "checkpoint_2" / "checkpoints", weights_only=True)
    weights = [state[k] for k in state if k.endswith("weight")]
    biases = [state[k] for k in state if k.endswith("bias")]
    x = torch.tanh(max_pool2d(conv2d(image, weights[0], biases[0]), 2))
    x = torch.tanh(max_pool2d(conv2d(x, weights[1], biases[1]), 2))
    x = torch.tanh(conv2d(x, weights[2], biases[2])).flatten(1)
    want = linear(torch.tanh(linear(x, weights[3], biases[3])), weights[4], biases[4])
    module, example = PooledBlueprint.rename(state, "tanh")[0].declared().module()
    assert example.shape[1:] == (1, 28, 28)
    module.load_state_dict(net.tensors)
    torch.testing.assert_close(module(image), want)
    function = function_of(zoo, net.space)
    torch.testing.assert_close(function.outputs(net.tensors), module.double()(function.inputs))


def test_the_large_cnn_reads_images_of_32():
    shapes = ((16, 3, 3, 3), (32, 16, 3, 3), (15, 32, 3, 3), (20, 60), (10, 20))
    assert PooledBlueprint(shapes, "relu").side() == 32 - 2  # 30 leaves 2x2, as 32 does
    with pytest.raises(ZooError, match="do not follow one another"):
        PooledBlueprint(((16, 3, 3, 3), (20, 61)), "relu").side()


def test_results_are_those_of_the_epoch_with_or_without_an_epoch_zero(zoo):
    for name in ("00", "zero", "digits"):
        for epoch in (1, 2):
            labels = zoo[int(zoo.rows(id=f"NN_tune_trainable_{name}/{epoch}")[0])].labels
            assert (labels["epoch"], labels["test_acc"]) == (epoch, epoch / 10)
            assert labels["ggap"] == pytest.approx(epoch / 10)
            assert labels["test_loss"] is None
            assert (labels["activation"], labels["lr"], labels["seed"]) == ("tanh", 1e-3, 3)


def test_trainings_are_shuffled_with_the_seed_and_never_divided(raw, zoo):
    order = sorted(folder.name for folder in raw.iterdir() if folder.is_dir())
    random.Random(42).shuffle(order)
    assert len(order) == 14
    readable = set(order) - {"NN_tune_trainable_broken"}
    runs = {split: set(zoo.filter(split).column("run")) for split in ("train", "validation", "test")}
    assert runs["train"] == set(order[:9]) & readable
    assert runs["validation"] == set(order[9:11]) & readable
    assert runs["test"] == set(order[11:]) & readable


def test_epochs_may_be_chosen(raw, tmp_path):
    zoo = import_zoo("modelzoos", raw, tmp_path / "zoo", epochs="2")
    assert set(zoo.column("epoch")) == {2}
    with pytest.raises(ZooError, match="holds no <training>/checkpoint_"):
        import_zoo("modelzoos", raw, tmp_path / "none", epochs="9")


class ModelDatasetBase:
    """What the prepared files hold objects of; the reader never sees this class."""

    def __init__(self, nets, paths, epochs):
        self.data_in, self.paths, self.epochs = nets, paths, epochs
        self.properties = {
            "test_acc": [0.5] * len(nets),
            "model::nlin": ["gelu"] * len(nets),
            "training_iteration": epochs,
        }

    def __setstate__(self, state):
        raise AssertionError("code of a pickled class was run")


def prepared(path, vectors):
    nets = [small() for _ in range(4)]
    held = [torch.cat([t.flatten() for t in net.values()]) for net in nets] if vectors else nets
    paths = [pathlib.PurePosixPath(f"zoo/run{i // 2}") for i in range(4)]
    sets = {"trainset": (0, 2), "valset": (2, 3), "testset": (3, 4)}
    torch.save({k: ModelDatasetBase(held[a:b], paths[a:b], [5, 6, 5, 6][a:b]) for k, (a, b) in sets.items()}, path)
    return nets


@pytest.mark.parametrize("vectors", [False, True])
def test_prepared_objects_are_read_without_their_class(tmp_path, vectors):
    nets = prepared(tmp_path / "dataset_mnist.pt", vectors)
    zoo = import_zoo("modelzoos-dataset", tmp_path / "dataset_mnist.pt", tmp_path / "out")
    assert list(zoo.column("id")) == ["train/00000", "train/00001", "validation/00000", "test/00000"]
    assert list(zoo.column("split")) == ["train", "train", "validation", "test"]
    assert list(zoo.column("run")) == ["run0", "run0", "run1", "run1"]
    assert list(zoo.column("epoch")) == [5, 6, 5, 6]
    for net, state in zip(zoo, nets, strict=True):
        assert net.space.certified
        assert torch.equal(net.tensors["conv2.weight"], state["module_list.3.weight"])
        assert torch.equal(net.tensors["linear2.bias"], state["module_list.11.bias"])
        assert net.labels["activation"] == "gelu"


def test_prepared_files_of_another_kind_are_refused(tmp_path):
    torch.save({"state_dict": small()}, tmp_path / "x.pt")
    with pytest.raises(ZooError, match=r"got state_dict. Accepted: a dictionary of trainset, valset, testset"):
        import_zoo("modelzoos-dataset", tmp_path / "x.pt", tmp_path / "out")
    torch.save({"trainset": ModelDatasetBase([torch.zeros(7)], [], [])}, tmp_path / "y.pt")
    with pytest.raises(ZooError, match=r"neither a state dict nor a vector of known layers: got a tensor \[7\]"):
        import_zoo("modelzoos-dataset", tmp_path / "y.pt", tmp_path / "out")


class CNNConfig:
    """What older checkpoints hold instead of a dictionary."""

    def __init__(self, **settings):
        self.__dict__ |= settings

    def __setstate__(self, state):
        raise AssertionError("code of a pickled class was run")


CONFIG = {"n_layers": 3, "n_classes": 10, "channels": [3, 4, 6, 5], "kernel_size": [3, 5, 7], "stride": [1, 1, 1],
          "padding": [1, 2, 3], "residual": [-1, -1, 0], "activation": ["relu", "tanh", "leaky_relu"]}  # fmt: skip


def park_state():
    module, _ = park_cnn((3, 4, 6, 5), (3, 5, 7), (1, 1, 1), (1, 2, 3), (-1, -1, 0), ("relu",) * 3, 10).module()
    return {name: torch.randn_like(t) for name, t in module.state_dict().items()}


@pytest.fixture(scope="module")
def park(tmp_path_factory):
    root = tmp_path_factory.mktemp("park") / "cifar10_zooV2"
    for trial in range(4):
        for step in (1, 2):
            folder = root / f"trial{trial}" / f"checkpoint_{step:06d}"
            folder.mkdir(parents=True)
            config = (
                CNNConfig(**CONFIG)
                if trial == 3
                else dict(CONFIG, residual=[None, -1, 0][:3])
                if trial == 2
                else CONFIG
            )
            content = {"model": park_state(), "optimizer": {"state": {}, "param_groups": []}, "config": config,
                       "last_result": {"test/acc": trial / 10 + step / 100}, "iteration": step}  # fmt: skip
            torch.save(content, folder / "checkpoint.pt")
    parts = {"train": (0, 1), "val": (2,), "test": (3,)}
    splits = {
        split: {"path": [f"data/trial{t}/checkpoint_{s:06d}/checkpoint.pt" for t in trials for s in (1, 2)],
                "score": [], "step": []} for split, trials in parts.items()
    }  # fmt: skip
    (root.parent / "cnn_park_splits.json").write_text(json.dumps(splits))
    bad = root / "trial9" / "checkpoint_000001"
    bad.mkdir(parents=True)
    torch.save({"model": park_state(), "config": dict(CONFIG, kernel_size=[3, 5, 5])}, bad / "checkpoint.pt")
    return root


def test_the_park_is_read_by_trial(park, tmp_path):
    zoo = import_zoo("cnn-wild-park", park, tmp_path / "out")
    assert len(zoo) == 8
    assert [sorted(zoo.filter(s).column("run")) for s in ("train", "validation", "test")] == [
        ["trial0", "trial0", "trial1", "trial1"], ["trial2"] * 2, ["trial3"] * 2,
    ]  # fmt: skip
    assert zoo[1].labels | {"diverged": False} == {
        "split": "train", "run": "trial0", "test_accuracy": 0.02, "step": 2, "layers": 3, "residuals": 1,
        "activation": "relu,tanh,leaky_relu", "diverged": False,
    }  # fmt: skip
    assert [entry["id"] for entry in zoo.unreadable] == ["trial9/checkpoint_000001"]
    assert "'layers.2.weight' should be [5, 6, 5, 5] by the settings, got [5, 6, 7, 7]" in zoo.unreadable[0]["reason"]
    (space,) = zoo.spaces.values()
    assert space.certified
    assert sum(a.size for a in space.free_axes) == 4 + 6, "the 4 channels added are of one axis, and 1 is left over"


def add_channels(x, earlier):
    shared = min(x.shape[1], earlier.shape[1])
    return torch.cat([x[:, :shared] + earlier[:, :shared], x[:, shared:]], 1)


def test_the_park_net_is_the_published_one():
    shape = (3, 4, 6, 5), (3, 5, 7), (1, 1, 1), (1, 2, 3)
    module, state = park_cnn(*shape, (-1, -1, 0), ("relu", "tanh", "none"), 10).module()[0], park_state()
    module.load_state_dict(state)
    image = torch.randn(2, 3, 8, 8)
    first = torch.relu(conv2d(image, state["layers.0.weight"], state["layers.0.bias"], padding=1))
    x = torch.tanh(conv2d(first, state["layers.1.weight"], state["layers.1.bias"], padding=2))
    x = add_channels(conv2d(x, state["layers.2.weight"], state["layers.2.bias"], padding=3), first)
    torch.testing.assert_close(module(image), linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]))
    space = trace(module, image)
    assert certify(module, space, image).ok
    wrong, _ = park_cnn(*shape, (-1, -1, -1), ("relu",) * 3, 10).module()
    claimed = trace(wrong, image)
    assert not certify(module, claimed, image).ok, "without the residual sum the neurons would be free of each other"
