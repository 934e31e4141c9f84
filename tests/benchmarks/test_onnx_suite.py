"""A sample of ONNX's own backend tests, and that the benchmark of them can fail."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
onnx_suite = pytest.importorskip("onnx_suite")

from metanet.space.onnx import operator  # noqa: E402
from metanet.space.onnx.registry import _OPERATORS  # noqa: E402

RIGHT = (  # noqa: SIM905 (a list of names)
    "convtranspose_output_shape gather_negative_indices l2normalization_axis_0 onehot_out_of_range_indices "
    "add_uint8 cumsum_2d_int32 top_k_same_values_2d dropout_default_mask layer_normalization_3d_axis1_epsilon "
    "averagepool_2d_ceil maxpool_2d_same_lower softmax_axis_1 resize_upsample_scales_cubic slice_negative_axes "
    "gru_batchwise scatternd_max gathernd_example_int32_batch_dim1 dft_axis center_crop_pad_pad attention_3d_gqa"
).split()  # fmt: skip
REFUSED = {
    "scan_sum": "setting of an operator",
    "top_k_uint64": "type of a tensor",
    "training_dropout_default": "setting of an operator",
    "resize_downsample_scales_linear_align_corners": "setting of an operator",
    "nonmaxsuppression_suppress_by_IOU": "depends on values",
    "sequence_insert_at_back": "type of a tensor",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    pattern = f"^test_({'|'.join([*RIGHT, *REFUSED])})$"
    folder = tmp_path_factory.mktemp("suite")
    found = [
        onnx_suite.judged(c, onnx_suite.tried(c, folder, c.name == "test_gru_batchwise"))
        for c in onnx_suite.cases("node", pattern)
    ]
    return {row["case"].removeprefix("test_"): row for row in found}


@pytest.mark.parametrize("name", RIGHT)
def test_right(rows, name):
    assert (rows[name]["state"], rows[name]["told"]) == ("right", "")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(rows, name):
    assert (rows[name]["state"], rows[name]["reason"]) == ("refused", REFUSED[name])


def test_a_wrong_operator_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(_OPERATORS, ("", "Relu"), None)  # restored afterwards

    @operator("Relu")
    def relu(x: torch.Tensor) -> torch.Tensor:
        return x.abs()

    (case,) = onnx_suite.cases("node", "^test_relu$")
    assert onnx_suite.judged(case, onnx_suite.tried(case, tmp_path, False))["state"] == "wrong"


def test_a_raw_exception_is_found(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("x")

    monkeypatch.setattr(onnx_suite, "onnx_network", fail)
    (case,) = onnx_suite.cases("node", "^test_relu$")
    assert onnx_suite.judged(case, onnx_suite.tried(case, tmp_path, False))["state"] == "raw"
