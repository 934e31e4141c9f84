"""The classes of transformers that are recognised, a closed list, and published sizes of them.

``python -m metanet.space.recognise.make_index`` reads these tables; what it makes of them is in the index.
"""

from __future__ import annotations

from typing import Any

TEXT = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
CAUSAL = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
IMAGES = ("Model", "ForImageClassification")
SEQUENCES = ("Model", "ForConditionalGeneration")
SPEECH = ("Model", "ForCTC", "ForSequenceClassification")

FAMILIES: dict[str, tuple[str, ...]] = {
    "Albert": (*TEXT, "ForPreTraining"),
    "Bart": (*SEQUENCES, "ForSequenceClassification"),
    "Beit": IMAGES,
    "Bert": (*TEXT, "ForPreTraining"),
    "Bloom": CAUSAL,
    "CLIP": ("Model", "VisionModel", "TextModel", "VisionModelWithProjection", "TextModelWithProjection"),
    "Camembert": TEXT,
    "Cohere": CAUSAL[:2],
    "ConvNext": IMAGES,
    "ConvNextV2": IMAGES,
    "Data2VecText": TEXT,
    "DebertaV2": TEXT,
    "DeiT": (*IMAGES, "ForImageClassificationWithTeacher"),
    "Dinov2": IMAGES,
    "DistilBert": TEXT,
    "Electra": (*TEXT, "ForPreTraining"),
    "Falcon": CAUSAL,
    "GPT2": ("Model", "LMHeadModel", "ForSequenceClassification", "ForTokenClassification"),
    "GPTJ": ("Model", "ForCausalLM"),
    "GPTNeo": ("Model", "ForCausalLM"),
    "GPTNeoX": CAUSAL,
    "Gemma": CAUSAL,
    "Gemma2": CAUSAL,
    "Granite": CAUSAL[:2],
    "Hubert": SPEECH,
    "Llama": CAUSAL,
    "MBart": SEQUENCES,
    "MPNet": TEXT,
    "MT5": (*SEQUENCES, "EncoderModel"),
    "Marian": ("Model", "MTModel"),
    "Mistral": CAUSAL,
    "MobileViT": IMAGES,
    "OPT": CAUSAL[:3],
    "Olmo": CAUSAL[:2],
    "Olmo2": CAUSAL[:2],
    "Pegasus": SEQUENCES,
    "Phi": CAUSAL,
    "Phi3": CAUSAL,
    "Qwen2": CAUSAL,
    "Qwen3": CAUSAL,
    "ResNet": IMAGES,
    "Roberta": TEXT,
    "Segformer": IMAGES,
    "Siglip": ("Model", "VisionModel", "TextModel"),
    "SmolLM3": CAUSAL[:2],
    "StableLm": CAUSAL,
    "Starcoder2": CAUSAL,
    "Swin": IMAGES,
    "Swinv2": IMAGES,
    "T5": (*SEQUENCES, "EncoderModel"),
    "ViT": IMAGES,
    "Wav2Vec2": SPEECH,
    "Whisper": (*SEQUENCES, "ForAudioClassification"),
    "XLMRoberta": TEXT,
}


def _bert(width: int, depth: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": 4 * width}
    return {**sizes, "num_attention_heads": max(width // 64, 1), **more}


def _gpt2(width: int, depth: int) -> dict[str, Any]:
    return {"n_embd": width, "n_layer": depth, "n_head": width // 64}


def _llama(width: int, inner: int, depth: int, heads: int, shared: int, words: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": depth, "vocab_size": words}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": shared, **more}


def _neox(width: int, depth: int, heads: int, words: int = 50304) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth, "vocab_size": words}
    return {**sizes, "num_attention_heads": heads}


def _opt(width: int, depth: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "ffn_dim": 4 * width, "num_hidden_layers": depth, "num_attention_heads": heads}
    return {**sizes, "word_embed_proj_dim": width, **more}


def _t5(width: int, inner: int, depth: int, heads: int, **more: Any) -> dict[str, Any]:
    return {"d_model": width, "d_ff": inner, "num_layers": depth, "num_heads": heads, **more}


def _whisper(width: int, depth: int, heads: int, **more: Any) -> dict[str, Any]:
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder")
             for name, value in (("layers", depth), ("attention_heads", heads), ("ffn_dim", 4 * width))}  # fmt: skip
    return {"d_model": width, **sides, **more}


GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "Bert": {
        "bert-tiny": _bert(128, 2),
        "bert-mini": _bert(256, 4),
        "bert-small": _bert(512, 4),
        "bert-medium": _bert(512, 8),
        "bert-base-cased": _bert(768, 12, vocab_size=28996),
        "bert-base-multilingual-cased": _bert(768, 12, vocab_size=119547),
        "bert-base-chinese": _bert(768, 12, vocab_size=21128),
        "bert-large-uncased": _bert(1024, 24),
        "bert-large-cased": _bert(1024, 24, vocab_size=28996),
        "all-MiniLM-L6-v2": _bert(384, 6, num_attention_heads=12),
        "all-MiniLM-L12-v2": _bert(384, 12, num_attention_heads=12),
    },
    "DistilBert": {"distilbert-base-cased": {"vocab_size": 28996}},
    "Electra": {
        "electra-base": {**_bert(768, 12), "embedding_size": 768},
        "electra-large": {**_bert(1024, 24), "embedding_size": 1024},
    },
    "Roberta": {
        "roberta-base": {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1},
        "roberta-large": _bert(1024, 24, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
        "distilroberta-base": _bert(768, 6, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
    },
    "XLMRoberta": {
        "xlm-roberta-base": {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1},
        "xlm-roberta-large": _bert(1024, 24, vocab_size=250002, max_position_embeddings=514, type_vocab_size=1),
    },
    "GPT2": {
        "gpt2-medium": _gpt2(1024, 24),
        "gpt2-large": _gpt2(1280, 36),
        "gpt2-xl": _gpt2(1600, 48) | {"n_head": 25},
        "distilgpt2": _gpt2(768, 6),
    },
    "GPTNeoX": {
        "pythia-14m": _neox(128, 6, 4),
        "pythia-70m": _neox(512, 6, 8),
        "pythia-160m": _neox(768, 12, 12),
        "pythia-410m": _neox(1024, 24, 16),
        "pythia-1b": _neox(2048, 16, 8),
        "pythia-1.4b": _neox(2048, 24, 16),
        "pythia-2.8b": _neox(2560, 32, 32),
        "pythia-6.9b": _neox(4096, 32, 32, 50432),
        "pythia-12b": _neox(5120, 36, 40, 50688),
    },
    "Llama": {
        "tinyllama-1.1b": _llama(2048, 5632, 22, 32, 4, 32000),
        "llama-2-13b": _llama(5120, 13824, 40, 40, 40, 32000),
        "llama-3-8b": _llama(4096, 14336, 32, 32, 8, 128256),
        "llama-3.2-1b": _llama(2048, 8192, 16, 32, 8, 128256, tie_word_embeddings=True, head_dim=64),
        "llama-3.2-3b": _llama(3072, 8192, 28, 24, 8, 128256, tie_word_embeddings=True, head_dim=128),
        "smollm-135m": _llama(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
        "smollm-360m": _llama(960, 2560, 32, 15, 5, 49152, tie_word_embeddings=True),
        "smollm-1.7b": _llama(2048, 8192, 24, 32, 32, 49152, tie_word_embeddings=True),
    },
    "Mistral": {"mistral-7b-v0.3": {"vocab_size": 32768}},
    "Qwen2": {
        "qwen2-0.5b": _llama(896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True),
        "qwen2-1.5b": _llama(1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True),
        "qwen2.5-3b": _llama(2048, 11008, 36, 16, 2, 151936, tie_word_embeddings=True),
        "qwen2-7b": _llama(3584, 18944, 28, 28, 4, 152064),
    },
    "Qwen3": {
        "qwen3-0.6b": _llama(1024, 3072, 28, 16, 8, 151936, tie_word_embeddings=True, head_dim=128),
        "qwen3-1.7b": _llama(2048, 6144, 28, 16, 8, 151936, tie_word_embeddings=True, head_dim=128),
        "qwen3-4b": _llama(2560, 9728, 36, 32, 8, 151936, tie_word_embeddings=True, head_dim=128),
        "qwen3-8b": _llama(4096, 12288, 36, 32, 8, 151936, head_dim=128),
    },
    "Gemma": {"gemma-2b": _llama(2048, 16384, 18, 8, 1, 256000, head_dim=256)},
    "OPT": {
        "opt-350m": _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
        "opt-1.3b": _opt(2048, 24, 32),
        "opt-2.7b": _opt(2560, 32, 32),
        "opt-6.7b": _opt(4096, 32, 32),
    },
    "T5": {
        "t5-base": _t5(768, 3072, 12, 12),
        "t5-large": _t5(1024, 4096, 24, 16),
        "t5-v1.1-small": _t5(512, 1024, 8, 6, **GATED),
        "t5-v1.1-base": _t5(768, 2048, 12, 12, **GATED),
        "t5-v1.1-large": _t5(1024, 2816, 24, 16, **GATED),
    },
    "MT5": {"mt5-base": _t5(768, 2048, 12, 12)},
    "Bart": {
        "bart-base": {
            "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
            "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
        },
    },
    "Whisper": {
        "whisper-base": _whisper(512, 6, 8),
        "whisper-tiny": _whisper(384, 4, 6),
        "whisper-small": _whisper(768, 12, 12),
        "whisper-medium": _whisper(1024, 24, 16),
        "whisper-large-v2": _whisper(1280, 32, 20),
        "whisper-large-v3": _whisper(1280, 32, 20, num_mel_bins=128, vocab_size=51866),
    },
    "ViT": {
        "vit-small-patch16-224": _bert(384, 12),
        "vit-base-patch32-224": {"patch_size": 32},
        "vit-base-patch16-384": {"image_size": 384},
        "vit-large-patch16-224": _bert(1024, 24),
    },
    "DeiT": {"deit-tiny": _bert(192, 12), "deit-small": _bert(384, 12)},
    "Dinov2": {"dinov2-small": _bert(384, 12, image_size=518, patch_size=14),
               "dinov2-base": {"image_size": 518, "patch_size": 14},
               "dinov2-large": _bert(1024, 24, image_size=518, patch_size=14)},
    "DebertaV2": {
        "deberta-v3-base": _bert(
            768, 12, vocab_size=128100, type_vocab_size=0, relative_attention=True, position_buckets=256,
            norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        ),
        "deberta-v3-small": _bert(
            768, 6, vocab_size=128100, type_vocab_size=0, relative_attention=True, position_buckets=256,
            norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        ),
    },
}  # fmt: skip
