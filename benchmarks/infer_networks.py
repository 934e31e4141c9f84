"""The published networks that ``infer.py`` writes to files: torchvision, one a family of timm, 20 of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metanet.space.recognise import torchvision_inputs
from metanet.space.recognise.construct import construct
from metanet.space.recognise.libraries import import_library
from metanet.space.recognise.naming import kept, tied_names
from metanet.space.recognise.transformers_inputs import inputs as example_inputs

Made = tuple[nn.Module, Any]
COVERAGE = Path(__file__).with_name("results") / "coverage.json"
SKIP: set[tuple[str, str]] = set()  # suites and names that are not made

TEXT = {"vocab_size": 90, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
GATED = {**TEXT, "num_key_value_heads": 2, "pad_token_id": 0, "max_position_embeddings": 32}
IMAGE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36, "image_size": 16}
SEQUENCE = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "vocab_size": 90,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 36, "decoder_ffn_dim": 36}  # fmt: skip
T5 = {"d_model": 24, "d_kv": 6, "d_ff": 36, "num_heads": 4, "num_layers": 2, "vocab_size": 90}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "AlbertModel": {**TEXT, "embedding_size": 12},
    "BartForConditionalGeneration": SEQUENCE,
    "BertForMaskedLM": TEXT,
    "BertForSequenceClassification": {**TEXT, "num_labels": 5},
    "DistilBertModel": {"vocab_size": 90, "dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 36},
    "ElectraForPreTraining": {**TEXT, "embedding_size": 12},
    "FalconForCausalLM": {"vocab_size": 90, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4},
    "GPT2LMHeadModel": {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 90},
    "GPTNeoXForCausalLM": TEXT,
    "GemmaForCausalLM": {**GATED, "head_dim": 6},
    "LlamaForCausalLM": GATED,
    "MistralForCausalLM": GATED,
    "OPTForCausalLM": {"vocab_size": 90, "hidden_size": 24, "ffn_dim": 36, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "word_embed_proj_dim": 24},
    "PhiForCausalLM": GATED,
    "Qwen2ForCausalLM": GATED,
    "Qwen3ForCausalLM": {**GATED, "head_dim": 6},
    "RobertaForSequenceClassification": {**TEXT, "num_labels": 5},
    "T5ForConditionalGeneration": T5,
    "ViTForImageClassification": {**IMAGE, "patch_size": 8},
    "WhisperForConditionalGeneration": {**SEQUENCE, "num_mel_bins": 8, "max_source_positions": 10,
                                        "max_target_positions": 12, "pad_token_id": 0, "bos_token_id": 1,
                                        "eos_token_id": 2, "decoder_start_token_id": 1},
}  # fmt: skip


def all_networks(suites: list[str]) -> Iterator[tuple[str, str, Callable[[Path], Made]]]:
    """Yield suite, name, and what makes the module and its inputs, given a folder for its ``config.json``."""
    for suite, listed in (("torchvision", torchvision), ("timm", timm), ("transformers", transformers)):
        if suite in suites:
            yield from ((suite, name, make) for name, make in listed() if (suite, name) not in SKIP)


def torchvision() -> Iterator[tuple[str, Callable[[Path], Made]]]:
    """Yield all of torchvision but the quantised ones."""
    models = import_library("torchvision").models
    for name in models.list_models():
        if not name.startswith("quantized_"):
            yield name, partial(_torchvision, models, name)


def _torchvision(models: Any, name: str, _: Path) -> Made:
    home = models.get_model_builder(name).__module__.split(".")[2]
    apart = {"weights_backbone": None} if home in ("detection", "segmentation") else {}
    return torchvision_inputs.with_inputs(construct(lambda: models.get_model(name, weights=None, **apart)), name, home)


def timm() -> Iterator[tuple[str, Callable[[Path], Made]]]:
    """Yield the smallest of each family of timm that is no test model."""
    library = import_library("timm")
    smallest: dict[str, tuple[int, str]] = {}
    for one in json.loads(COVERAGE.read_text())["models"]:
        if not one["model"].startswith("test_"):
            here = int(one["parameters"]), str(one["model"])
            smallest[one["family"]] = min(here, smallest.get(one["family"], here))
    for _, (_, name) in sorted(smallest.items()):
        yield name, partial(_timm, library, name)


def _timm(library: Any, name: str, _: Path) -> Made:
    module = construct(lambda: library.create_model(name))
    config = library.models.get_pretrained_cfg(name)
    channels, height, width = config.input_size if config is not None else (3, 224, 224)
    if config is not None and not config.fixed_input_size:
        height, width = min(height, 128), min(width, 128)
    return module, (torch.zeros(1, channels, height, width),)


def transformers() -> Iterator[tuple[str, Callable[[Path], Made]]]:
    """Yield 20 classes in sizes that no one published, with the file that says them."""
    library = import_library("transformers")
    for name, fields in TRANSFORMERS.items():
        yield name, partial(_transformers, library, name, fields)


def _transformers(library: Any, name: str, fields: dict[str, Any], folder: Path) -> Made:
    kind = getattr(library, name)
    config = kind.config_class(**fields)
    config.architectures = [name]
    config.save_pretrained(folder)
    for option in ("use_cache", "output_attentions", "output_hidden_states"):
        setattr(config, option, False)
    module = kind(config).eval().requires_grad_(False)
    return module, example_inputs(module, config)


def fill(module: nn.Module) -> None:
    """Give every parameter values of its own: equal tensors would be taken for tied ones."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.uniform_(-0.1, 0.1, generator=generator)


def stored(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a safetensors file of a module holds: tied ones once."""
    ties = tied_names(module)
    return {n: t for n, t in module.state_dict().items() if n not in ties or n == kept(ties[n])}
