"""The architectures that benchmarks run on: names, families, modules with inputs that fit them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LARGE = 100e6  # parameters: above this a model is built without weights, and cannot be run
SMALL_IMAGE = 128
WIDE_IMAGE = 256  # models of fixed image size above this are built for smaller images where their constructor allows


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: Its name in its library.
        family: What it is grouped by.
        build: Makes pairs of a module and example inputs, the cheapest first; later ones serve if earlier ones do not
            run. The module is in eval mode, on the meta device if it is large.
    """

    name: str
    family: str
    build: Callable[[], Iterator[tuple[nn.Module, Any]]]


def declare_torchvision_operations() -> None:
    """Let timm import where torchvision's compiled operations do not fit this torch; no model here calls them."""
    if "_library" in globals():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # the compiled operations are there
            continue
    globals()["_library"] = library  # definitions last as long as the library


def suite(name: str) -> dict[str, Architecture]:
    """All architectures of ``timm``, ``torchvision`` or ``transformers``, by name."""
    declare_torchvision_operations()
    warnings.simplefilter("ignore")
    found = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}[name]()
    return {a.name: a for a in found}


def parameters_of(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


# timm ----------------------------------------------------------------------------------------------------------------


def _timm() -> Iterator[Architecture]:
    import timm

    for name in timm.list_models():
        home = str(timm.models.model_entrypoint(name).__module__.rpartition(".")[2])
        yield Architecture(name, home, lambda name=name: _timm_modules(name))  # type: ignore[misc]


def _timm_modules(name: str) -> Iterator[tuple[nn.Module, Tensor]]:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    channels, height, width = config.input_size if config is not None else (3, 224, 224)
    fixed = config is None or config.fixed_input_size
    if fixed and height > WIDE_IMAGE:
        for size in (SMALL_IMAGE, 224, WIDE_IMAGE):
            try:
                module = _on_meta(lambda size=size: timm.create_model(name, img_size=size))  # type: ignore[misc]
            except Exception:  # its constructor takes no such size
                continue
            yield module, torch.randn(1, channels, size, size)
    module = _on_meta(lambda: timm.create_model(name))
    if not fixed and height > SMALL_IMAGE:
        yield module, torch.randn(1, channels, SMALL_IMAGE, SMALL_IMAGE)
    yield module, torch.randn(1, channels, height, width)


def _on_meta(create: Callable[[], nn.Module]) -> nn.Module:
    """The module with weights if it is small enough to run, otherwise on the meta device where that works."""
    try:
        with torch.device("meta"):
            module = create().eval()
        if parameters_of(module) > LARGE:
            return module
    except (RuntimeError, NotImplementedError, TypeError):  # its constructor reads values of its tensors
        pass
    module = create().eval()
    return module.to("meta") if parameters_of(module) > LARGE else module


# torchvision ---------------------------------------------------------------------------------------------------------


def _torchvision() -> Iterator[Architecture]:
    from torchvision import models

    for kind in ("classification", "segmentation", "detection"):
        home = models if kind == "classification" else getattr(models, kind)
        for name in models.list_models(module=home):
            yield Architecture(f"{name}", kind, lambda name=name, kind=kind: _torchvision_modules(name, kind))  # type: ignore[misc]


def _torchvision_modules(name: str, kind: str) -> Iterator[tuple[nn.Module, Tensor]]:
    from torchvision import models

    nowhere = {} if kind == "classification" else {"weights_backbone": None}
    module = _on_meta(lambda: models.get_model(name, weights=None, **nowhere))
    if kind == "detection":
        module = Detector(module).eval()
    sizes = (299,) if name.startswith("inception") else (128, 224) if kind == "classification" else (128, 320)
    for size in sizes:
        yield module, torch.randn(1, 3, size, size)


class Detector(nn.Module):
    """The part of a detector that is a function of the image alone: backbone, and the heads that read all positions."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, x: Tensor) -> Any:
        """All feature maps, and what the head predicts at every position of them."""
        features = self.backbone(x)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        return maps, self.head(maps)


# transformers --------------------------------------------------------------------------------------------------------

TEXT = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
DECODER = {**TEXT, "num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0, "max_position_embeddings": 32}
IMAGE = {"image_size": 16, "patch_size": 8}


def _transformers() -> Iterator[Architecture]:
    for name in ("BERT", "GPT-2", "Llama", "ViT", "T5", "Mistral", "Qwen", "Gemma", "CLIP", "Whisper"):
        yield Architecture(name, name, lambda name=name: _transformers_modules(name))  # type: ignore[misc]


def _transformers_modules(name: str) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    import transformers as t

    words = torch.arange(6)[None] + 1
    text, mask, image = {"input_ids": words}, {"attention_mask": torch.ones_like(words)}, torch.randn(1, 3, 16, 16)
    heads = {"num_heads": 4, "d_model": 24, "use_cache": False}
    speech = {
        "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 36, "decoder_ffn_dim": 36, "d_model": 24, "vocab_size": 40, "num_mel_bins": 8,
        "max_source_positions": 10, "max_target_positions": 12, "use_cache": False, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }  # fmt: skip
    made: dict[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = {
        "BERT": lambda: (t.BertForMaskedLM(t.BertConfig(**TEXT)), text | mask),
        "GPT-2": lambda: (
            t.GPT2LMHeadModel(t.GPT2Config(n_embd=24, n_layer=2, n_head=4, vocab_size=40, use_cache=False)), text,
        ),
        "Llama": lambda: (t.LlamaForCausalLM(t.LlamaConfig(**DECODER)), text),
        "ViT": lambda: (t.ViTForImageClassification(t.ViTConfig(**TEXT, **IMAGE)), {"pixel_values": image}),
        "T5": lambda: (
            t.T5ForConditionalGeneration(t.T5Config(**heads, d_kv=6, d_ff=36, num_layers=2, vocab_size=40)),
            text | {"decoder_input_ids": words},
        ),
        "Mistral": lambda: (t.MistralForCausalLM(t.MistralConfig(**DECODER)), text),
        "Qwen": lambda: (t.Qwen3ForCausalLM(t.Qwen3Config(**DECODER, head_dim=6)), text),
        "Gemma": lambda: (t.GemmaForCausalLM(t.GemmaConfig(**DECODER, head_dim=6)), text),
        "CLIP": lambda: (
            t.CLIPModel(
                t.CLIPConfig(text_config={**TEXT, "max_position_embeddings": 12}, vision_config={**TEXT, **IMAGE})
            ),
            text | mask | {"pixel_values": image},
        ),
        "Whisper": lambda: (
            t.WhisperForConditionalGeneration(t.WhisperConfig(**speech)),
            {"input_features": torch.randn(1, 8, 20), "decoder_input_ids": words},
        ),
    }  # fmt: skip
    module, inputs = made[name]()
    yield module.eval(), inputs
