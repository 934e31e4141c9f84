"""A ``config.json`` is untrusted: it chooses among known classes and sets plain bounded fields, and nothing else."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from torch import nn

import metanet
from metanet.checkpoint import save
from metanet.errors import SpaceError
from metanet.space.recognise import libraries, recognise, recognition
from metanet.space.recognise.configuration import named, plain_fields, read_configuration
from metanet.space.recognise.index import Index

INDEX = Index(
    {"transformers": "0", "timm": "0"},
    {"names": [["timm", "tiny_vit", "shapes", [], {}]]},
    {},
    frozenset(),
    {},
    frozenset({"BertModel"}),
    {},
)
BERT = {"architectures": ["BertModel"], "hidden_size": 6}


class Config:
    """Takes fields as the configurations of transformers do."""

    seen = []  # noqa: RUF012

    def __init__(self, hidden_size=4, num_hidden_layers=1, **fields):
        Config.seen.append({"hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers, **fields})
        if isinstance(hidden_size, bool) or not isinstance(hidden_size, int):
            raise TypeError("hidden_size must be a whole number")
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers


class BertModel(nn.Module):
    """Stands for a class of transformers."""

    config_class = Config
    main_input_name = "input_ids"
    built = 0

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(9, config.hidden_size)
        self.layers = nn.ModuleList()
        for _ in range(config.num_hidden_layers):
            BertModel.built += 1
            self.layers.append(nn.Linear(config.hidden_size, config.hidden_size))

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x).relu()
        return x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file of such a net; the library is made by hand."""
    package = types.ModuleType("transformers")
    package.BertModel = BertModel
    package.Trainer = package.pipeline = lambda *_: pytest.fail("something else than the named class was called")
    monkeypatch.setitem(sys.modules, "transformers", package)
    monkeypatch.setattr(recognition, "load_index", lambda: INDEX)
    monkeypatch.setattr(recognition, "_spaces", {})
    monkeypatch.setattr(libraries, "version", lambda library: "0")
    Config.seen, BertModel.built = [], 0
    save(tmp_path / "model.safetensors", BertModel(Config(hidden_size=6)).state_dict())
    Config.seen, BertModel.built = [], 0
    return tmp_path


def write(folder, data):
    """Write a configuration, given as a text or as data, and return the file beside it."""
    (folder / "config.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return metanet.load(folder / "model.safetensors")


def test_the_class_that_a_configuration_names_is_traced(folder):
    space = metanet.infer(write(folder, BERT))
    assert space.source == "transformers:BertModel"
    assert [fields["hidden_size"] for fields in Config.seen] == [6] * len(Config.seen)


@pytest.mark.parametrize(
    "name", ["Trainer", "pipeline", "os.system", "BertModel.__init__", "../BertModel", "bertmodel", "", "BertModel\n"]
)
def test_a_class_outside_of_the_list_is_never_looked_up(folder, name):
    checkpoint = write(folder, {"architectures": [name], "hidden_size": 6})
    assert named(read_configuration(folder / "config.json"), INDEX) is None
    assert recognise(checkpoint) is None
    assert Config.seen == []


def test_remote_code_is_neither_imported_nor_passed_on(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit('imported')")
    more = {
        "auto_map": {"AutoModel": "modeling_evil.BertModel", "AutoConfig": "someone/else--modeling_evil.Config"},
        "trust_remote_code": True,
        "_name_or_path": "someone/else",
        "name_or_path": "/etc",
        "quantization_config": {"quant_method": "modeling_evil"},
        "_attn_implementation": "someone/kernel",
        "attn_implementation": "someone/kernel",
        "backbone": "someone/else",
        "torch_dtype": "modeling_evil",
    }
    assert metanet.infer(write(folder, {**BERT, **more})).source == "transformers:BertModel"
    assert "modeling_evil" not in sys.modules
    for fields in Config.seen:
        assert fields.keys() <= {"hidden_size", "num_hidden_layers"}


@pytest.mark.parametrize(
    "field",
    [
        {"hidden_size": 10**30},
        {"num_hidden_layers": 2**40},
        {"rope_theta": float("inf")},
        {"rope_theta": float("nan")},
        {"layer_types": ["full"] * 5000},
        {"layer_types": [[[[["deep"]]]]]},
        {"hidden_act": "gelu" * 1000},
        {"pruned": {str(i): i for i in range(1000)}},
    ],
)
def test_values_that_are_not_plain_and_small_are_refused_in_one_line(folder, field):
    with pytest.raises(SpaceError, match=rf"config.json has {next(iter(field))}=.*Accepted are") as caught:
        metanet.infer(write(folder, {**BERT, **field}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert Config.seen == []


@pytest.mark.parametrize("field", [{"hidden_size": 2**20}, {"num_hidden_layers": 2**20}])
def test_what_a_configuration_may_build_is_bounded_by_the_file(folder, field):
    assert recognise(write(folder, {**BERT, **field})) is None
    assert BertModel.built <= 40  # of the 1,048,576 that it asks for


@pytest.mark.parametrize("size", ["6", [6], None, True, 6.5, {"a": 6}])
def test_fields_of_wrong_types_are_no_traceback(folder, size):
    checkpoint = write(folder, {**BERT, "hidden_size": size})
    try:
        found = recognise(checkpoint)
    except SpaceError as error:
        found, said = None, str(error)
    else:
        said = ""
    assert found is None
    assert "\n" not in said


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "7", '"BertModel"', "{", '{"architectures": ', "\ufeff{}", "[" * 100_000, '{"a":' * 100_000],
)
def test_what_is_no_object_is_as_no_configuration(folder, text):
    assert recognise(write(folder, text)) is None


@pytest.mark.parametrize(
    "kinds", ["BertModel", {"BertModel": 1}, ["BertModel", "BertModel"], [["BertModel"]], [7], [], None, True]
)
def test_architectures_of_wrong_types_are_not_read(folder, kinds):
    assert recognise(write(folder, {"architectures": kinds, "hidden_size": 6})) is None


def test_configurations_in_configurations_are_bounded():
    data = {"architectures": ["BertModel"]}
    for _ in range(300):
        data = {"text_config": data}
    with pytest.raises(SpaceError, match="text_config="):
        plain_fields(data)
    inner = {"auto_map": {"AutoModel": "evil.Model"}, "hidden_size": 6, "id2label": {"0": "a", "1": "b", "2": "c"}}
    assert plain_fields({"text_config": inner}) == {"text_config": {"hidden_size": 6, "num_labels": 3}}
    with pytest.raises(SpaceError, match="hidden_size="):
        plain_fields({"vision_config": {"hidden_size": 10**12}})


def test_a_file_that_is_too_large_or_a_folder_is_not_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "pad": "x" * (1 << 20)}))
    assert read_configuration(tmp_path / "config.json") is None
    assert read_configuration(tmp_path) is None
    assert read_configuration(tmp_path / "absent.json") is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"img_size": 50_000},
        {"img_size": [224, 10**6]},
        {"depths": [10**4]},
        {"norm_layer": "os.system"},
        {"pretrained": True},
        {"checkpoint_path": "/etc/passwd"},
        {"features_only": True},
        {"img_size": float("inf")},
        {"depths": [[[[[2]]]]]},
    ],
)
def test_arguments_of_timm_are_a_closed_list_of_small_values(arguments):
    with pytest.raises(SpaceError, match=rf"with {next(iter(arguments))}=.*accepted: img_size"):
        named({"architecture": "tiny_vit", "model_args": arguments}, INDEX)


def test_arguments_of_timm_that_are_no_mapping_are_none():
    for given in ([], "img_size", 7, None):
        said = named({"architecture": "tiny_vit.augreg_in1k", "model_args": given, "num_classes": 3}, INDEX)
        assert (said.library, said.name, dict(said.arguments)) == ("timm", "tiny_vit", {"num_classes": 3})
    assert named({"architecture": "create_model"}, INDEX) is None
    assert named({"architecture": 7}, INDEX) is None


def test_the_bounds_let_real_nets_through(folder):
    deep = BertModel(Config(hidden_size=6, num_hidden_layers=5))
    save(folder / "model.safetensors", {n: torch.randn(t.shape) for n, t in deep.state_dict().items()})
    checkpoint = write(folder, {**BERT, "num_hidden_layers": 5, "vocab_size": 256_000, "rope_theta": 1e6})
    assert len(metanet.infer(checkpoint).tensor) == 11
