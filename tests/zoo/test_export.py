import json

import pytest
import torch

from metanet.checkpoint import load
from metanet.errors import ZooError
from metanet.space import WeightSpace
from metanet.zoo import export_net, open_zoo


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_exported_net_reads_back(built, tmp_path, ending):
    zoo = open_zoo(built)
    net = zoo[4]
    file = export_net(zoo, net.id, tmp_path / f"net.{ending}")
    assert file.read_bytes() == export_net(zoo, 4, tmp_path / f"row.{ending}").read_bytes() or ending == "safetensors"
    read = load(file)
    assert read.tensors.keys() == net.tensors.keys()
    assert all(torch.equal(read.tensors[name], value) for name, value in net.tensors.items())
    assert WeightSpace.from_json(read.metadata["metanet.space"]) == net.space
    labels = json.loads(read.metadata["metanet.labels"])
    assert (labels["id"], labels["zoo"]) == (net.id, "digits-cnn")
    assert labels["test_accuracy"] == net.labels["test_accuracy"]


def test_pt_loads_without_running_code(built, tmp_path):
    file = export_net(open_zoo(built), 0, tmp_path / "net.pt")
    assert set(torch.load(file, weights_only=True)) == {"state_dict", "metadata"}


def test_unknown_net_or_ending(built, tmp_path):
    zoo = open_zoo(built)
    with pytest.raises(ZooError, match=r"no net 'abc'. Accepted: an id such as '00000', or a row of 0\.\.19"):
        export_net(zoo, "abc", tmp_path / "net.pt")
    with pytest.raises(ZooError, match="no net 20"):
        export_net(zoo, 20, tmp_path / "net.pt")
    with pytest.raises(ZooError, match=r"Accepted: \.safetensors, \.pt"):
        export_net(zoo, 0, tmp_path / "net.onnx")
