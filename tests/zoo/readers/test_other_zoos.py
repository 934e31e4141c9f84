"""A folder with a CSV, transformers, and safetensors with labels in their metadata."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import metanet
from metanet.errors import ZooError
from metanet.space import trace
from metanet.zoo import export_net, import_zoo, zoo_formats
from metanet.zoo.readers.registry import _FORMATS, Source, SourceNet, zoo_reader
from metanet.zoo.readers.transformers import SmallTransformer


def mlp(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).state_dict()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "nets"
    (path / "a").mkdir(parents=True)
    torch.save(mlp(0), path / "a" / "0.pt")
    save_file(mlp(1), path / "1.safetensors")
    torch.save({"state_dict": mlp(2), "epoch": 3}, path / "2.ckpt")
    (path / "3.pt").write_bytes(b"broken")
    rows = [
        "file,split,run,score,name",
        "a/0.pt,train,r0,1,01",
        "1.safetensors,test,r1,,x",
        "2.ckpt,validation,r0,2.5,y",
    ]
    (path / "labels.csv").write_text("\n".join([*rows, "3.pt,test,r2,3,z", "4.pt,test,r2,3,z"]))
    return path


def test_a_folder_with_a_csv_of_labels(folder, tmp_path):
    zoo = import_zoo("folder", folder, tmp_path / "out", activation="relu")
    assert list(zoo.column("id")) == ["a/0.pt", "1.safetensors", "2.ckpt"]
    assert list(zoo.column("split")) == ["train", "test", "validation"]
    assert list(zoo.column("name")) == ["01", "x", "y"], "a column with text keeps its zeros"
    assert zoo[1].labels["score"] is None
    assert zoo[2].labels["score"] == 2.5
    assert [entry["id"] for entry in zoo.unreadable] == ["3.pt", "4.pt"]
    assert "there is no such file" in zoo.unreadable[1]["reason"]
    for number, seed in ((0, 0), (1, 1), (2, 2)):
        assert torch.equal(zoo[number].tensors["2.weight"], mlp(seed)["2.weight"])
    (space,) = zoo.spaces.values()
    assert [a.size for a in space.free_axes] == [5]
    assert not space.certified
    assert "relu" in {link.activation for link in space.links}


def test_a_space_that_a_file_carries_is_kept(tmp_path, tiny_zoo):
    path = tmp_path / "nets"
    path.mkdir()
    export_net(tiny_zoo, 3, path / "net.safetensors")
    (path / "labels.csv").write_text("file,accuracy\nnet.safetensors,0.5\n")
    zoo = import_zoo("folder", path, tmp_path / "out")
    assert zoo[0].space == tiny_zoo[3].space
    assert zoo[0].space.certified
    assert metanet.open_zoo(tmp_path / "out").column("accuracy")[0] == 0.5


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("name,score\na,1\n", "got name, score. A column 'file' is needed"),
        ("file,split\na/0.pt,trian\n", "got the split 'trian'"),
        ("file\na/0.pt\na/0.pt\n", "got 'a/0.pt' twice"),
        ("file,x\na/0.pt\n", "line 2 has 1 fields, the first line has 2"),
        ("", "empty table"),
        ("file\n3.pt\n", "none of its 1 nets can be read. The first, 3.pt"),
    ],
)
def test_bad_tables_are_refused(folder, tmp_path, csv, message):
    (folder / "labels.csv").write_text(csv)
    with pytest.raises(ZooError, match=message):
        import_zoo("folder", folder, tmp_path / "out")


def transformer(words=False):
    shapes = {"embedding.pos_embedding": (16, 8)}
    shapes |= (
        {"embedding.embedding.weight": (11, 8)}
        if words
        else {"embedding.conv1.weight": (8, 1, 7, 7), "embedding.conv1.bias": (8,)}
    )
    for i in range(2):
        shapes |= {f"encoder.{i}.attention.{n}.weight": (8, 8) for n in ("queries", "keys", "values", "out_projection")}
        shapes |= {f"encoder.{i}.fc1.weight": (16, 8), f"encoder.{i}.fc1.bias": (16,)}
        shapes |= {f"encoder.{i}.fc2.weight": (8, 16), f"encoder.{i}.fc2.bias": (8,)}
    shapes |= {"classifier.fc1.weight": (8, 8), "classifier.fc1.bias": (8,)}
    shapes |= {"classifier.fc2.weight": (4, 8), "classifier.fc2.bias": (4,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("task", ["mnist", "ag_news"])
def test_small_transformers(tmp_path, task):
    accuracy = "test_top1_accuracy" if task == "ag_news" else "test_accuracy"
    rows = [f"optimizer,ckpt_epoch,ckpt_file,{accuracy}"]
    (tmp_path / "zoo" / "metadata").mkdir(parents=True)
    (tmp_path / "zoo" / task).mkdir()
    for run in ("swift-1", "calm-2"):
        for epoch in (50, 75):
            rows.append(f"adam,{epoch},{task}/{run}_{epoch}_9312.pt,0.9312")
            torch.save(transformer(task == "ag_news"), tmp_path / "zoo" / task / f"{run}_{epoch}_9312.pt")
    (tmp_path / "zoo" / "metadata" / f"{task}.csv").write_text("\n".join(rows))
    zoo = import_zoo("small-transformer-zoo", tmp_path / "zoo", tmp_path / "out")
    assert len(zoo) == 4
    assert list(zoo.column("run")) == ["swift-1", "swift-1", "calm-2", "calm-2"]
    assert zoo[0].labels["test_accuracy"] == 0.9312
    (space,) = zoo.spaces.values()
    assert space.certified
    assert space.neurons > 0
    last = import_zoo("small-transformer-zoo", tmp_path / "zoo", tmp_path / "last", task=task, epoch=75)
    assert list(last.column("ckpt_epoch")) == [75, 75]
    with pytest.raises(ZooError, match=f"got the tasks {task}"):
        import_zoo("small-transformer-zoo", tmp_path / "zoo", tmp_path / "no", task="cifar")


def test_the_blocks_of_small_transformers_have_no_skip_connections():
    state = transformer()
    net = SmallTransformer({n: tuple(t.shape) for n, t in state.items()}, 2)
    net.load_state_dict(state)
    with torch.no_grad():
        net.encoder[0].fc2.weight.zero_()
        image = torch.randn(2, 1, 28, 28)
        assert torch.equal(*net(image)), "what a block does not pass on is lost, so both images look alike"
    assert net.example().shape == (1, 1, 28, 28)


def test_adapters_of_low_rank_and_labels_in_the_metadata(tmp_path):
    for split, number in (("train", 0), ("val", 1), ("test", 2), ("holdouts", 3)):
        folder = tmp_path / "lora" / split / f"model_{number}"
        folder.mkdir(parents=True)
        state = {"unet.q.lora.down.weight": torch.randn(2, 6), "unet.q.lora.up.weight": torch.randn(6, 2),
                 "unet.k.lora.down.weight": torch.randn(3, 6), "unet.k.lora.up.weight": torch.randn(4, 3)}  # fmt: skip
        metadata = {"imagenet_class_id": str(number), "dataset_chosen_targets": "[3, 5]", "lr": "1e-4", "format": "pt"}
        save_file(state, folder / "pytorch_lora_weights.safetensors", metadata=metadata)
    lone = tmp_path / "lora" / "train" / "lone"
    lone.mkdir()
    save_file({"a.lora.down.weight": torch.randn(2, 6)}, lone / "x.safetensors")
    zoo = import_zoo("model-j", tmp_path / "lora", tmp_path / "out")
    assert sorted(zoo.column("split")) == ["none", "test", "train", "validation"]
    row = zoo[int(zoo.rows("validation")[0])]
    assert (row.labels["imagenet_class_id"], row.labels["dataset_chosen_targets"], row.labels["lr"]) == (
        1,
        "[3, 5]",
        1e-4,
    )
    (space,) = zoo.spaces.values()
    assert sorted(a.size for a in space.free_axes) == [2, 3]
    assert space.certified
    assert "are no adapter of low rank" in zoo.unreadable[0]["reason"]


def test_networks_in_safetensors_are_inferred(tmp_path):
    (tmp_path / "nets" / "test").mkdir(parents=True)
    save_file(mlp(0), tmp_path / "nets" / "test" / "model.safetensors", metadata={"seed": "7"})
    zoo = import_zoo("model-j", tmp_path / "nets", tmp_path / "out")
    assert (zoo[0].labels["seed"], zoo[0].labels["split"]) == (7, "test")


def test_a_reader_of_ones_own(tmp_path):
    @zoo_reader("mine", title="Mine", licence="MIT", source="here", holds="anything")
    def open_mine(path, *, nets: int = 2):
        return Source([f"n{i}" for i in range(nets)], lambda i: SourceNet(mlp(i), {"score": i}, activation="tanh"))

    try:
        assert "mine" in zoo_formats()
        zoo = import_zoo("mine", tmp_path, tmp_path / "out", nets=3)
        assert list(zoo.column("score")) == [0, 1, 2]
        with pytest.raises(ZooError, match=r"Format mine has no option 'nest'. Accepted: nets"):
            import_zoo("mine", tmp_path, tmp_path / "no", nest=3)
        with pytest.raises(ZooError, match="it exists"):
            import_zoo("mine", tmp_path, tmp_path / "out")
        with pytest.raises(ZooError, match="got no nets"):
            import_zoo("mine", tmp_path, tmp_path / "none", nets=0)
    finally:
        del _FORMATS["mine"]
    with pytest.raises(ZooError, match=r"Unknown zoo format: got 'mine'. Accepted: .*small-cnn-zoo"):
        import_zoo("mine", tmp_path, tmp_path / "no")
    with pytest.raises(ZooError, match="there is no such file or folder"):
        import_zoo("folder", tmp_path / "nowhere", tmp_path / "no")


def test_blueprints_are_traced_and_not_only_inferred():
    state = transformer()
    net = SmallTransformer({n: tuple(t.shape) for n, t in state.items()}, 2)
    assert not trace(net, net.example()).opaque
