"""Recognises the usual models as trainable, from two small files and without torch and transformers, whose import takes seconds.

`bnf.training.checks` asks transformers itself about every other model. So a model that isn't known here is not refused; it takes longer.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

# Of `bnf.model.families.FAMILIES` those whose layers have no choices but the ones below.
_PLAIN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2")
_DTYPES = ("bfloat16", "float16", "float32")

_Rules = Mapping[str, Callable[[object], bool]]


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _is_token(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _is_share(value: object) -> bool:
    return type(value) is float and 0 < value <= 1


def _is_base(value: object) -> bool:
    return (type(value) is int or type(value) is float) and value > 0


def _is_switch(value: object) -> bool:
    return type(value) is bool


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_off(value: object) -> bool:
    return value is None or value is False or (type(value) in (int, float) and value == 0)


def _is_end(value: object) -> bool:
    tokens = value if type(value) is list and value else [value]
    return value is None or all(_is_size(token) or token == 0 for token in tokens)


def _is_plain_rope(value: object) -> bool:
    known = {"rope_theta": _is_base, "rope_type": lambda kind: kind == "default"}
    return value is None or (type(value) is dict and _keeps(value, known))


_SIZES: _Rules = dict.fromkeys(
    ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    _is_size,
)
_CONFIG: _Rules = {
    **_SIZES,
    "model_type": lambda family: family in _PLAIN_FAMILIES,
    "dtype": lambda name: name in _DTYPES,
    "torch_dtype": lambda name: name in _DTYPES,
    "hidden_act": lambda name: name == "silu",
    "attention_dropout": _is_off,
    "rope_parameters": _is_plain_rope,
    "rope_scaling": lambda value: value is None,
    "rope_theta": _is_base,
    "sliding_window": _is_off,
    "use_sliding_window": _is_off,
    "eos_token_id": _is_end,
    **dict.fromkeys(("head_dim", "max_position_embeddings", "max_window_layers", "pretraining_tp"), _is_size),
    **dict.fromkeys(("rms_norm_eps", "initializer_range"), _is_share),
    **dict.fromkeys(("bos_token_id", "pad_token_id", "unk_token_id"), _is_token),
    **dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings", "use_cache"), _is_switch),
    **dict.fromkeys(("_name_or_path", "_model_name_or_path", "transformers_version"), _is_text),
    "architectures": lambda names: type(names) is list and all(map(_is_text, names)),
}
_GENERATION: _Rules = {
    "eos_token_id": _is_end,
    **dict.fromkeys(("bos_token_id", "pad_token_id"), _is_token),
    **dict.fromkeys(("_from_model_config", "do_sample"), _is_switch),
    **dict.fromkeys(("temperature", "top_p"), _is_share),
    **dict.fromkeys(("max_length", "max_new_tokens", "top_k"), _is_size),
    "repetition_penalty": _is_base,
    "transformers_version": _is_text,
}


def is_plain(model_dir: Path, *, evaluates: bool) -> bool:
    """Whether this model is sure to be trainable with all of its weights. False means that it isn't known.

    With `evaluates` its files must name an end token too: evaluations draw samples.
    """
    config, file = _values(model_dir / "config.json"), model_dir / "generation_config.json"
    generation = _values(file) if file.exists() else {}
    if config is None or generation is None or not _keeps(config, _CONFIG) or not _keeps(generation, _GENERATION):
        return False
    if "model_type" not in config or not config.keys() >= _SIZES.keys():
        return False
    whole = {name: value for name, value in config.items() if isinstance(value, int)}
    if whole["hidden_size"] % whole["num_attention_heads"] or whole["num_attention_heads"] % whole["num_key_value_heads"]:
        return False
    if whole.get("pad_token_id", 0) >= whole["vocab_size"]:
        return False
    return not evaluates or any(values.get("eos_token_id") is not None for values in (generation, config))


def _keeps(values: Mapping[str, object], rules: _Rules) -> bool:
    """Whether each value has a rule and keeps it."""
    return all(name in rules and rules[name](value) for name, value in values.items())


def _values(file: Path) -> dict[str, object] | None:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # transformers reads it next, and says what is wrong
        return None
    return values if isinstance(values, dict) else None
