"""Every ONNX operator against ONNX's own reference implementation."""

# ruff: noqa: E501 (a table: one row a case)

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metanet.errors import SpaceError
from metanet.space.onnx import onnx_network
from metanet.space.onnx.registry import _OPERATORS

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
op_run = pytest.importorskip("onnx.reference.op_run")
helper, array = onnx.helper, onnx.numpy_helper.from_array


class BatchNormalization(op_run.OpRun):
    """The reference of old versions trains whenever it knows a momentum, which has a default."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, variance, epsilon=None, momentum=None, training_mode=None):
        scale, bias, mean, variance = (v.reshape(1, -1, *[1] * (x.ndim - 2)) for v in (scale, bias, mean, variance))
        return ((x - mean) / np.sqrt(variance + epsilon) * scale + bias,)


def r(*shape, seed=0):
    """Random numbers."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def i(*numbers):
    """Whole numbers."""
    return np.array(numbers, np.int64)


def f(*numbers):
    """Numbers."""
    return np.array(numbers, np.float32)


X, IMAGE, ROW, KERNEL, GRID = r(2, 3, 4), r(2, 4, 7, 6), r(3, 5), r(4, 3, 2, 2), r(2, 3, 3, 2)
UNARY = (  # noqa: SIM905 (a list of names)
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor IsInf IsNaN Log Neg Reciprocal Relu Round Sigmoid Sign "
    "Sin Sinh Softplus Softsign Sqrt Tan Tanh HardSwish Mish Identity Dropout LeakyRelu Elu Celu Selu Gelu HardSigmoid "
    "ThresholdedRelu Shrink Softmax LogSoftmax Hardmax Flatten Transpose Shape Size LpNormalization"
).split()
DOMAIN = {
    "Acosh": np.abs(X) + 1,
    "Acos": np.tanh(X),
    "Asin": np.tanh(X),
    "Atanh": np.tanh(X),
    "Log": np.abs(X),
    "Sqrt": np.abs(X),
}

# name: operator, opset, inputs (the first is the network's, the others are constants), attributes
CASES = {name.lower(): (name, 20, [DOMAIN.get(name, X)], {}) for name in UNARY}
CASES |= {
    op.lower(): (op, 20, [X, r(3, 1, seed=1)], {})
    for op in ("Add", "Sub", "Mul", "Div", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
}
CASES |= {
    f"{op.lower()} number": (op, 20, [X, np.float32(2)], {})
    for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Greater")
}
CASES |= {op.lower(): (op, 13, [X, r(2, 3, 4, seed=1), r(4, seed=2)], {}) for op in ("Max", "Min", "Sum", "Mean")}
CASES |= {
    f"{op} {kind}": (
        op,
        20 if kind == "new" else 11,
        [X] if kind == "old" else [X, i(0, -1)],
        {"axes": [0, -1], "keepdims": 0} if kind == "old" else {},
    )
    for op in (
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    )
    for kind in ("old", "new")
}
CASES |= {
    # elementwise
    "whole division": ("Div", 20, [i(7, -7, 5), i(2)], {}),
    "mod": ("Mod", 20, [i(7, -7, 5), i(3)], {}),
    "fmod": ("Mod", 20, [X, np.float32(0.7)], {"fmod": 1}),
    "pow of whole numbers": ("Pow", 20, [i(2, 3), f(2)], {}),
    "and": ("And", 20, [X > 0, X > 0.5], {}),
    "xor": ("Xor", 20, [X > 0, X > 0.5], {}),
    "not": ("Not", 20, [X > 0], {}),
    "where": ("Where", 20, [X > 0, X, np.float32(3)], {}),
    "cast": ("Cast", 20, [X], {"to": 7}),
    "cast like": ("CastLike", 20, [X, i(3)], {}),
    "clip": ("Clip", 13, [X, np.float32(-0.5), np.float32(0.5)], {}),
    "clip of old": ("Clip", 6, [X], {"min": -0.5, "max": 0.5}),
    "clip from zero": ("Clip", 13, [X, np.float32(0)], {}),
    "prelu of one slope": ("PRelu", 16, [IMAGE, f(0.3)], {}),
    "prelu by channel": ("PRelu", 16, [IMAGE, r(4, 1, 1)], {}),
    "prelu by entry": ("PRelu", 16, [IMAGE, r(4, 7, 6)], {}),
    "gelu by tanh": ("Gelu", 20, [X], {"approximate": "tanh"}),
    "hard sigmoid of torch": ("HardSigmoid", 20, [X], {"alpha": 1 / 6, "beta": 0.5}),
    "elu": ("Elu", 20, [X], {"alpha": 0.7}),
    "selu": ("Selu", 20, [X], {"alpha": 1.5, "gamma": 1.2}),
    "swish": ("Swish", 24, [X], {"alpha": 0.5}),
    # linear
    "matmul": ("MatMul", 13, [X, r(4, 5)], {}),
    "matmul of a square matrix": ("MatMul", 13, [X, r(4, 4)], {}),
    "matmul of vectors": ("MatMul", 13, [r(4), r(4, 5)], {}),
    "matmul in batches": ("MatMul", 13, [X, r(2, 4, 5)], {}),
    "gemm": ("Gemm", 13, [ROW, r(4, 5), r(4)], {"transB": 1}),
    "gemm of a square matrix": ("Gemm", 13, [ROW, r(5, 5), r(5)], {}),
    "gemm of a transposed square matrix": ("Gemm", 13, [ROW, r(5, 5), r(5)], {"transB": 1}),
    "gemm of a transposed input": ("Gemm", 13, [r(5, 5), r(5, 5, seed=1), r(5)], {"transA": 1}),
    "gemm transposed twice": ("Gemm", 13, [r(5, 5), r(5, 5, seed=1), r(5)], {"transA": 1, "transB": 1}),
    "gemm scaled": ("Gemm", 13, [ROW, r(3, 4), r(1, 4)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    "einsum": ("Einsum", 13, [X, r(4, 5)], {"equation": "bij,jk->bki"}),
    "conv": ("Conv", 11, [IMAGE, r(6, 4, 3, 3), r(6)], {"pads": [1, 0, 1, 0], "strides": [2, 1]}),
    "conv 1d dilated": ("Conv", 11, [r(2, 4, 9), r(6, 4, 3)], {"dilations": [2]}),
    "conv 3d": ("Conv", 11, [r(1, 2, 4, 4, 4), r(3, 2, 2, 2, 2)], {}),
    "conv in groups": ("Conv", 11, [IMAGE, r(6, 2, 3, 3)], {"group": 2}),
    "conv padded on one side": ("Conv", 11, [IMAGE, r(6, 4, 3, 3)], {"pads": [0, 0, 1, 2]}),
    "conv of the same size": ("Conv", 11, [IMAGE, r(6, 4, 3, 2)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv of the same size below": ("Conv", 11, [IMAGE, r(6, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    "conv transpose": ("ConvTranspose", 11, [IMAGE, r(4, 3, 3, 3), r(3)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "conv transpose cropped": ("ConvTranspose", 11, [IMAGE, r(4, 3, 3, 3)], {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    # views and parts
    "reshape": ("Reshape", 13, [X, i(0, -1, 2)], {}),
    "flatten from 2": ("Flatten", 13, [IMAGE], {"axis": 2}),
    "squeeze": ("Squeeze", 13, [r(2, 1, 3, 1), i(1)], {}),
    "squeeze all": ("Squeeze", 13, [r(2, 1, 3, 1)], {}),
    "squeeze of old": ("Squeeze", 11, [r(2, 1, 3, 1)], {"axes": [-1]}),
    "unsqueeze": ("Unsqueeze", 13, [X, i(0, 4)], {}),
    "unsqueeze of old": ("Unsqueeze", 11, [X], {"axes": [1]}),
    "transpose": ("Transpose", 13, [X], {"perm": [1, 2, 0]}),
    "expand": ("Expand", 13, [r(3, 1), i(2, 1, 4)], {}),
    "tile": ("Tile", 13, [X, i(2, 1, 3)], {}),
    "depth to space": ("DepthToSpace", 13, [IMAGE], {"blocksize": 2}),
    "depth to space in columns": ("DepthToSpace", 13, [IMAGE], {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", 13, [r(2, 4, 6, 4)], {"blocksize": 2}),
    "concat": ("Concat", 13, [X, r(2, 1, 4)], {"axis": 1}),
    "slice": ("Slice", 13, [X, i(1, -3), i(9, -1), i(1, 2)], {}),
    "slice of old": ("Slice", 9, [X], {"starts": [0, 1], "ends": [1, 3], "axes": [0, 2]}),
    "slice in steps": ("Slice", 13, [X, i(0), i(4), i(2), i(2)], {}),
    "slice backwards": ("Slice", 13, [IMAGE, i(-1), i(-9), i(2), i(-2)], {}),
    "gather": ("Gather", 13, [X, np.array([[0, -1], [1, 1]])], {"axis": 1}),
    "gather one": ("Gather", 13, [X, np.array(-1)], {"axis": 2}),
    "gather a range": ("Gather", 13, [X, i(1, 2)], {"axis": 1}),
    "gather elements": ("GatherElements", 13, [ROW, np.array([[0, -1], [1, 1], [2, 0]])], {"axis": 1}),
    "gather tuples": ("GatherND", 13, [X, np.array([[0, 1], [1, 2]])], {}),
    "scatter": ("ScatterElements", 18, [ROW, np.array([[0, 1], [3, 1]]), r(2, 2)], {"axis": 1}),
    "scatter and add": ("ScatterElements", 18, [ROW, np.array([[0, 1], [3, 1]]), r(2, 2)], {"axis": 1, "reduction": "add"}),
    "scatter tuples": ("ScatterND", 18, [X, np.array([[0, 1], [1, 2]]), r(2, 4)], {}),
    "pad": ("Pad", 18, [X, i(0, 1, 0, 0, 0, 2), np.float32(3)], {}),
    "pad some axes": ("Pad", 18, [X, i(1, 2), f(0).reshape(()), i(1)], {}),
    "pad of old": ("Pad", 2, [X], {"pads": [0, 1, 0, 0, 0, 2], "value": 0.5}),
    "pad by reflection": ("Pad", 18, [X, i(0, 1, 2, 0, 2, 3)], {"mode": "reflect"}),
    "pad by the edge": ("Pad", 18, [X, i(0, 1, 2, 0, 2, 3)], {"mode": "edge"}),
    "pad around": ("Pad", 19, [X, i(0, 1, 2, 0, 2, 3)], {"mode": "wrap"}),
    "lower triangle": ("Trilu", 14, [X, np.array(1)], {"upper": 0}),
    "one hot": ("OneHot", 11, [i(0, 2, -1), np.array(4), f(0.5, 2)], {"axis": 0}),
    "split": ("Split", 13, [X, i(1, 3)], {"axis": 2, "outputs": 2}),
    "split evenly": ("Split", 18, [r(2, 7), None], {"axis": 1, "num_outputs": 3, "outputs": 3}),
    "split of old": ("Split", 11, [X], {"axis": 2, "split": [1, 3], "outputs": 2}),
    # positions
    "max pool": ("MaxPool", 12, [IMAGE], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    "max pool of the same size": ("MaxPool", 12, [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "max pool dilated": ("MaxPool", 12, [IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    "max pool to the end": ("MaxPool", 12, [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "average pool": ("AveragePool", 11, [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]}),
    "average pool with padding": ("AveragePool", 11, [IMAGE], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "average pool on one side": ("AveragePool", 11, [IMAGE], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    "global average": ("GlobalAveragePool", 13, [IMAGE], {}),
    "global maximum": ("GlobalMaxPool", 13, [IMAGE], {}),
    "nearest": ("Resize", 13, [IMAGE, f(), f(1, 1, 2, 2)], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    "nearest of half pixels": ("Resize", 13, [IMAGE, f(), f(), i(2, 4, 3, 9)], {"mode": "nearest"}),
    "linear": ("Resize", 13, [IMAGE, f(), f(1, 1, 2, 2)], {"mode": "linear"}),
    "linear between corners": ("Resize", 13, [IMAGE, f(), f(), i(2, 4, 13, 3)], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    "linear asymmetric": ("Resize", 13, [IMAGE, f(), f(1, 1, 2, 1.5)], {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
    "cubic": ("Resize", 13, [IMAGE, f(), f(1, 1, 2, 2)], {"mode": "cubic"}),
    "cubic asymmetric": ("Resize", 13, [IMAGE, f(), f(1, 1, 2, 2)], {"mode": "cubic", "coordinate_transformation_mode": "asymmetric"}),
    "upsample": ("Upsample", 9, [IMAGE, f(1, 1, 2, 2)], {"mode": "nearest"}),
    # norms
    "batch norm": ("BatchNormalization", 15, [IMAGE, r(4), r(4), r(4), np.abs(r(4))], {}),
    "batch norm of old": ("BatchNormalization", 9, [IMAGE, r(4), r(4), r(4), np.abs(r(4))], {"epsilon": 1e-3}),
    "instance norm": ("InstanceNormalization", 6, [IMAGE, r(4), r(4)], {}),
    "layer norm": ("LayerNormalization", 17, [X, r(3, 4), r(3, 4)], {"axis": 1}),
    "layer norm broadcast": ("LayerNormalization", 17, [X, r(4)], {"axis": 1}),
    "group norm": ("GroupNormalization", 21, [IMAGE, r(4), r(4)], {"num_groups": 2}),
    "rms norm": ("RMSNormalization", 23, [X, r(4)], {}),
    "local response norm": ("LRN", 13, [r(4, 4, 3, 3)], {"size": 3, "alpha": 0.5, "bias": 1.5}),
    "mean and variance": ("MeanVarianceNormalization", 13, [IMAGE], {"axes": [0, 2, 3]}),
    "p norm": ("LpNormalization", 1, [np.abs(X)], {"axis": 1, "p": 1}),
    # reductions
    "sum of old": ("ReduceSum", 11, [X], {"axes": [1]}),
    "sum of all": ("ReduceSum", 13, [X], {}),
    "sum of nothing": ("ReduceSum", 13, [X], {"noop_with_empty_axes": 1}),
    "softmax of the last of old": ("Softmax", 11, [ROW], {}),
    "argmax": ("ArgMax", 13, [X], {"axis": 1, "keepdims": 0}),
    "last argmin": ("ArgMin", 13, [X], {"axis": 2, "select_last_index": 1}),
    "top": ("TopK", 11, [X, i(2)], {"outputs": 2}),
    "cumulative sum": ("CumSum", 14, [X, np.array(1)], {"exclusive": 1, "reverse": 1}),
    # constants
    "a part of the shape": ("Shape", 15, [IMAGE], {"start": 1, "end": -1}),
    "eye": ("EyeLike", 9, [ROW], {"k": 1}),
    # values at the edges of what is meant
    "one hot beyond its depth": ("OneHot", 11, [i(0, 7, -1, -9), np.array(4), f(0.5, 2)], {"axis": -2}),
    "top of equal ones": ("TopK", 11, [f(1, 3, 3, 3, 2, 3), i(3)], {"outputs": 2}),
    "bottom of equal ones": ("TopK", 11, [f(1, 1, 3, 1, 2, 3), i(2)], {"outputs": 2, "largest": 0}),
    "sums of 32 bits": ("CumSum", 14, [np.arange(6, dtype=np.int32), np.array(0)], {}),
    "reduction of 32 bits": ("ReduceSum", 13, [np.arange(6, dtype=np.int32).reshape(2, 3), i(-1)], {}),
    "numbers of 8 bits": ("Add", 14, [np.array([1, 250], np.uint8), np.array([7], np.uint8)], {}),
    "dropout with a mask": ("Dropout", 13, [X], {"outputs": 2}),
    "layer norm with its statistics": ("LayerNormalization", 17, [X, r(4)], {"outputs": 3}),
    "tuples in batches": ("GatherND", 13, [X, np.array([[0], [-1]])], {"batch_dims": 1}),
    "largest of tuples": ("ScatterND", 18, [X, np.array([[0, 1], [1, -1], [0, 1]]), r(3, 4)], {"reduction": "max"}),
    "products of tuples": ("ScatterND", 18, [X, np.array([[0, 1], [1, 2], [0, 1]]), r(3, 4)], {"reduction": "mul"}),
    "places of maxima": ("MaxPool", 12, [IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "outputs": 2}),
    "average of dilated windows": ("AveragePool", 19, [IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 2], "pads": [1, 1, 1, 1]}),
    "space to depth in columns": ("SpaceToDepth", 13, [r(2, 4, 6, 4)], {"blocksize": 2}),
    "shift": ("BitShift", 11, [np.array([1, 6], np.uint8), np.array([2, 1], np.uint8)], {"direction": "RIGHT"}),
    "compress": ("Compress", 11, [X, np.array([True, False, True])], {"axis": -2}),
    "sequences turned around": ("ReverseSequence", 10, [r(4, 3), i(2, 4, 1)], {}),
    "determinant": ("Det", 11, [r(2, 3, 3)], {}),
    "spectrum": ("DFT", 17, [r(2, 8, 1)], {"axis": 1}),
    "spectra of windows": ("STFT", 17, [r(1, 16, 1), np.array(4), np.hanning(8).astype(np.float32)], {}),
    "image of windows": ("Col2Im", 18, [r(1, 8, 9), i(4, 4), i(2, 2)], {}),
    # recurrent: hidden 3, input 4
    "lstm": ("LSTM", 14, [r(5, 2, 4), r(1, 12, 4), r(1, 12, 3), r(1, 24)], {"hidden_size": 3, "outputs": 3}),
    "lstm with states": ("LSTM", 14, [r(5, 2, 4), r(1, 12, 4), r(1, 12, 3), None, None, r(1, 2, 3), r(1, 2, 3, seed=1)], {"hidden_size": 3, "outputs": 3}),
    "rnn": ("RNN", 14, [r(5, 2, 4), r(1, 3, 4), r(1, 3, 3), r(1, 6)], {"hidden_size": 3, "outputs": 2}),
    "gru": ("GRU", 14, [r(5, 2, 4), r(1, 9, 4), r(1, 9, 3), r(1, 18)], {"hidden_size": 3, "linear_before_reset": 1, "outputs": 2}),
    "gru that resets first": ("GRU", 14, [r(5, 2, 4), r(1, 9, 4), r(1, 9, 3), r(1, 18)], {"hidden_size": 3, "outputs": 2}),
    # by ONNX's own definition in terms of other operators
    "by definition": ("Softsign", 22, [X], {}),
    "attention by definition": ("Attention", 23, [r(1, 4, 8), r(1, 5, 8), r(1, 5, 8, seed=1)], {"q_num_heads": 2, "kv_num_heads": 2}),
}  # fmt: skip


def model(op, opset, inputs, attributes, held=()):
    """A model of one node, whose inputs after the first are constants."""
    attributes = dict(attributes)
    count = attributes.pop("outputs", 1)
    names = ["" if value is None else f"input{n}" for n, value in enumerate(inputs)]
    outputs = [f"output{n}" for n in range(count)]
    node = helper.make_node(op, names, outputs, "node", **attributes)
    kind = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info("input0", kind, inputs[0].shape)],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [array(np.asarray(v), n) for n, v in zip(names[1:], inputs[1:], strict=True) if n],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(path, *inputs):
    """What our network gives, as arrays."""
    given = [torch.from_numpy(x) for x in inputs]
    module, _ = onnx_network(path, given)
    with torch.no_grad():
        found = module(*given)
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("name", CASES)
def test_operator(name, tmp_path):
    proto = model(*CASES[name])
    (tmp_path / "a.onnx").write_bytes(proto.SerializeToString())
    x = CASES[name][2][0]
    wanted = reference.ReferenceEvaluator(proto, new_ops=[BatchNormalization]).run(None, {"input0": x})
    got = run(tmp_path / "a.onnx", x)
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours.shape, ours.dtype) == (np.shape(theirs), np.asarray(theirs).dtype)
        np.testing.assert_allclose(ours.astype(np.float64), np.asarray(theirs, np.float64), rtol=2e-4, atol=2e-5)


OF_TORCH = {  # where the reference implementation fails or ignores what older versions mean
    "softmax of old": ("Softmax", 11, [X], {"axis": 1}, lambda x: x.flatten(1).softmax(1).reshape(x.shape)),
    "resize of old": ("Resize", 10, [IMAGE, f(1, 1, 2, 2)], {}, lambda x: F.interpolate(x, scale_factor=2)),
    "transpose in groups": ("ConvTranspose", 11, [IMAGE, KERNEL], {"strides": [2, 2], "group": 2},
                            lambda x: F.conv_transpose2d(x, torch.from_numpy(KERNEL), stride=2, groups=2)),
    "transpose to a smaller size": ("ConvTranspose", 11, [IMAGE, KERNEL], {"strides": [2, 2], "output_shape": [13, 10], "auto_pad": "SAME_UPPER"},
                                    lambda x: F.conv_transpose2d(x, torch.from_numpy(KERNEL), stride=2)[:, :, :13, 1:11]),
    "transpose to the same size below": ("ConvTranspose", 11, [IMAGE, r(4, 3, 3, 3), r(3)], {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
                                         lambda x: F.conv_transpose2d(x, torch.from_numpy(r(4, 3, 3, 3)), torch.from_numpy(r(3)), 2)[:, :, 1:, 1:]),
    "resize of old to smaller": ("Resize", 10, [IMAGE[:, :, :6], f(1, 1, 0.5, 0.5)], {}, lambda x: x[:, :, ::2, ::2]),
    "transpose beyond the full size": ("ConvTranspose", 11, [IMAGE, KERNEL, r(3)], {"strides": [2, 2], "output_shape": [17, 12]},
                                       lambda x: F.pad(F.conv_transpose2d(x, torch.from_numpy(KERNEL), stride=2), (0, 0, 0, 3)) + torch.from_numpy(r(3))[:, None, None]),
    "transpose with wide output padding": ("ConvTranspose", 11, [IMAGE, KERNEL], {"strides": [2, 2], "output_padding": [3, 0]},
                                           lambda x: F.pad(F.conv_transpose2d(x, torch.from_numpy(KERNEL), stride=2), (0, 0, 0, 3))),
    "p norm of zero rows": ("LpNormalization", 22, [np.stack([X[0], 0 * X[0]])], {"axis": 1, "p": 2},
                            lambda x: torch.stack([x[0] / x[0].square().sum(0).sqrt(), x[1]])),
    "broadcast of old": ("Add", 6, [X, r(3)], {"broadcast": 1, "axis": 1}, lambda x: x + torch.from_numpy(r(3))[:, None]),
    "broadcast of old from behind": ("Mul", 6, [X, r(3)], {"broadcast": 1, "axis": -2}, lambda x: x * torch.from_numpy(r(3))[:, None]),
    "slope by channel of old": ("PRelu", 6, [IMAGE, r(4)], {}, lambda x: F.prelu(x, torch.from_numpy(r(4)))),
    "gemm of old": ("Gemm", 6, [ROW, r(5, 4), r(4)], {"broadcast": 1}, lambda x: x @ torch.from_numpy(r(5, 4)) + torch.from_numpy(r(4))),
    "selu of old": ("Selu", 1, [X], {}, lambda x: 1.0507 * F.elu(x, 1.6732)),
    "averages to the end on one side": ("AveragePool", 19, [r(1, 1, 5, 5)], {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1},
                                        lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True)),
    "max pool to the end on one side": ("MaxPool", 12, [IMAGE], {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [0, 0, 1, 2], "ceil_mode": 1},
                                        lambda x: F.max_pool2d(F.pad(x, (0, 0, 0, 1), value=-torch.inf), 2, 3)),
    "norm of windows to the end": ("LpPool", 18, [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
                                   lambda x: (F.avg_pool2d(F.pad(x, (0, 1)).square(), 3, 2) * 9).sqrt()),
    "half of a spectrum": ("DFT", 20, [r(2, 8, 1)], {"onesided": 1}, lambda x: torch.view_as_real(torch.fft.rfft(x[..., 0]))),
    "max pool on one side": ("MaxPool", 12, [IMAGE], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]},
                             lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 2, 1)),
    "norm of windows": ("LpPool", 18, [IMAGE], {"kernel_shape": [2, 2], "p": 2}, lambda x: F.lp_pool2d(x, 2, 2, 1)),
    "norm of all": ("GlobalLpPool", 2, [IMAGE], {"p": 2}, lambda x: x.norm(dim=(2, 3), keepdim=True)),
    "grid": ("GridSample", 20, [IMAGE, np.tanh(GRID)], {}, lambda x: F.grid_sample(x, torch.from_numpy(np.tanh(GRID)), align_corners=False)),
    "or": ("Or", 13, [X > 0, X > 1], {}, lambda x: x),
    "bits": ("BitwiseAnd", 18, [i(6, 5), i(3, 3)], {}, lambda x: x & 3),
    "log of a sum": ("ReduceLogSum", 18, [np.abs(X), i(1)], {}, lambda x: x.sum(1, keepdim=True).log()),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_TORCH)
def test_operator_of_torch(name, tmp_path):
    *case, wanted = OF_TORCH[name]
    (tmp_path / "a.onnx").write_bytes(model(*case).SerializeToString())
    (got,) = run(tmp_path / "a.onnx", case[2][0])
    np.testing.assert_allclose(got, wanted(torch.from_numpy(case[2][0])).numpy(), rtol=2e-4, atol=2e-5)


def test_every_operator_is_tested():
    in_networks = {"ConstantOfShape", "Range"}
    alike = {"Scatter", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitCast", "CumProd"}
    tested = {case[0] for case in (*CASES.values(), *OF_TORCH.values(), *REFUSED.values())} | in_networks | alike
    assert {name for domain, name in _OPERATORS if not domain} - tested == set()


REFUSED = {
    "quantised": ("QuantizeLinear", 13, [X, np.float32(0.1)], {}, "it computes with quantised numbers"),
    "sequence": ("SequenceConstruct", 13, [X], {}, "it works on sequences"),
    "unknown": ("MaxUnpool", 13, [IMAGE, np.zeros((2, 4, 7, 6), np.int64)], {"kernel_shape": [2, 2]}, "metanet has no operator 'MaxUnpool'"),
    "places of maxima": ("MaxPool", 12, [IMAGE], {"kernel_shape": [2, 2], "outputs": 2, "storage_order": 1}, "places of its maxima"),
    "an axis too many": ("Softmax", 13, [X], {"axis": 3}, "its axis 3 is none of the 3 dimensions"),
    "an entry too many": ("Gather", 13, [X, i(0, 3)], {"axis": 1}, "takes the entry 3 of 3"),
    "an axis twice": ("ReduceMax", 20, [X, i(1, -2)], {}, "name a dimension twice"),
    "a dimension that is not one": ("Squeeze", 13, [X, i(1)], {}, "not of size 1"),
    "a size that says too little": ("ConvTranspose", 11, [IMAGE, KERNEL], {"strides": [2, 2], "output_shape": [13, 11]}, "runtimes disagree"),
    "corners of uneven sizes": ("Resize", 13, [IMAGE, f(), f(1, 1, 0.6, 0.6)], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "runtimes disagree"),
    "a mode of none": ("Resize", 13, [IMAGE, f(), f(1, 1, 2, 2)], {"mode": "bilinear"}, "its mode is 'bilinear'"),
    "padding of none": ("Conv", 11, [IMAGE, KERNEL], {"auto_pad": "SAME"}, "its auto_pad is 'SAME'"),
    "another kernel": ("Conv", 11, [IMAGE, r(3, 4, 3, 2)], {"kernel_shape": [2, 2]}, "its kernel_shape is"),
    "dropping at random": ("Dropout", 13, [X, np.float32(0.5), np.array(True)], {}, "it is in training mode"),
    "statistics of a batch": ("BatchNormalization", 15, [IMAGE, r(4), r(4), r(4), np.abs(r(4))], {"training_mode": 1, "outputs": 3}, "training mode"),
    "a scan over a batch": ("Scan", 8, [X, X], {"num_scan_inputs": 1, "body": helper.make_graph([], "body", [], [])}, "the operator's first version"),
    "an attribute of another kind": ("Concat", 13, [X, X], {"axis": 1.5}, "its attribute 'axis' is of the kind FLOAT, not INT"),
    "an attribute that is missing": ("Concat", 13, [X, X], {}, "its attribute 'axis' is missing"),
    "too few inputs": ("Add", 13, [X], {}, "it has 1 inputs; 2 to 2 are accepted"),
    "old shapes without broadcasting": ("Add", 6, [X, r(4)], {}, "unless its attribute 'broadcast' is 1"),
    "numbers of 16 bits": ("Cast", 13, [X], {"to": 4}, "its type 4 is none that torch computes with"),
    "sizes of values": ("Unique", 11, [X], {}, "sizes of its results depend on the values"),
    "more than fits": ("Expand", 13, [r(1), i(2**40)], {}, "more than 2,147,483,648 entries"),
    "padding more than fits": ("Pad", 18, [X, i(0, 0, 0, 0, 0, 2**40)], {}, "its pads"),
    "resizing more than fits": ("Resize", 13, [IMAGE, f(), f(1, 1, 1e9, 1)], {"mode": "linear"}, "1 to 16,384 are accepted"),
    "peepholes": ("LSTM", 14, [r(5, 2, 4), r(1, 12, 4), r(1, 12, 3), None, None, None, None, r(1, 9)], {"hidden_size": 3, "outputs": 3}, "peephole"),
    "other activations": ("RNN", 14, [r(5, 2, 4), r(1, 3, 4), r(1, 3, 3)], {"hidden_size": 3, "activations": ["Elu"]}, r"activations are \['elu'\]"),
    "where entries are not zero": ("NonZero", 13, [X], {}, "depends on the values that the network is given"),
    "lengths": ("LSTM", 14, [r(5, 2, 4), r(1, 12, 4), r(1, 12, 3), None, np.array([3, 5], np.int32)], {"hidden_size": 3}, "lengths of their own"),
    "shapes that do not fit": ("Add", 13, [X, r(5)], {}, r"on inputs of the shapes \[\[2, 3, 4\], \[5\]\] it fails"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name, tmp_path):
    *case, reason = REFUSED[name]
    (tmp_path / "a.onnx").write_bytes(model(*case).SerializeToString())
    with pytest.raises(SpaceError, match=rf"cannot build node 'node' \({case[0]}\): .*{reason}"):
        run(tmp_path / "a.onnx", case[2][0])
