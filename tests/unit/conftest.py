"""What all unit tests share: one reading of the tokenizer, little for the garbage collector, and a tiny model of random weights."""

import copy
import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.keys import ROOT

# Recipes of the tests name models and sets of hubs: which commit they are at is nothing that a test may depend on.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("BNF_OFFLINE", None)

# Most of what the tests make is freed by its last reference: looking for circles after every 700 objects took a twelfth of their time.
gc.set_threshold(50_000, 50, 50)

DEMONSTRATION_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays() -> None:
    """Every training ends with a garbage collection, which would look through all modules of torch and transformers each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _the_tokenizer_is_read_once() -> Iterator[None]:
    """Hundreds of tests want the demonstration model's tokenizer, which takes a quarter of a second to read: each gets a copy of
    one, to give a template or a date of its own. Copies share the vocabulary: a test that adds tokens takes a deep copy.
    """
    if "transformers" not in sys.modules:
        # No test module needs it, and importing it takes longer.
        yield
        return
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained
    # As the project opens every tokenizer, which changes nothing in this one.
    safe = {"local_files_only": True, "trust_remote_code": False}
    read_once = functools.cache(lambda: read(DEMONSTRATION_MODEL))

    def from_pretrained(folder: str | Path, **options: Any) -> Any:
        if Path(folder).absolute() == DEMONSTRATION_MODEL and options.items() <= safe.items():
            return copy.copy(read_once())
        return read(folder, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
        yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with grouped-query attention, tied head, bfloat16 weights, and a word-level tokenizer of 97 tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.4,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    vocabulary = {f"w{index}": index for index in range(97)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w2", unk_token="w0").save_pretrained(folder)
    return folder
