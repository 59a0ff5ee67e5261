"""Names that people know from other programs: the message says what to set, and what it says exists."""

from dataclasses import fields

import pytest

from bnf.objectives import OBJECTIVES, option_types
from bnf.plugins import names
from flows.errors import RecipeError
from flows.recipe.config import Recipe, make_recipe
from flows.recipe.docs import sections
from flows.recipe.known_names import KNOWN_NAMES, MISPLACED, remedy_for
from flows.recipe.section import Section

TRAINED = {"name": "r", "model_name_or_path": "some/model", "data": {"source": "pairs", "path": "x.jsonl"}, "train": {}}


def keys_of_a_recipe() -> set[str]:
    """Every key that a recipe may have, by its whole name."""
    found = set()
    for place, section in sections().items():
        own = section.model_fields if issubclass(section, Section) else [field.name for field in fields(section)]
        found |= {name if section is Recipe else f"{place}.{name}" for name in own}
    options = {option for objective in names(OBJECTIVES) for option in option_types(objective)}
    return found | {f"train.objective_options.{option}" for option in options}


def test_every_key_that_the_table_names_exists():
    there = keys_of_a_recipe()
    missing = {name: key for name, known in KNOWN_NAMES.items() for key in known.keys if key not in there}
    assert not missing
    assert not {name: key for name, known in MISPLACED.items() for key in known.keys if key not in there}
    # What is a key of the section isn't misplaced there.
    assert not MISPLACED.keys() & there
    assert "train.learning_rate" in there and "label.judge.model_name_or_path" in there  # the set is one of whole names


def test_every_name_of_the_table_has_a_key_or_a_reason_to_leave_it_out():
    assert not [name for name, known in KNOWN_NAMES.items() if not known.keys and not known.remark]


def test_no_name_of_the_table_is_a_key_at_the_top_of_a_recipe():
    assert not KNOWN_NAMES.keys() & Recipe.model_fields.keys()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("beta=0.1", "beta must be a key of the recipe, got an unknown one; set train.objective_options.beta"),
        ("train.beta=0.1", "train.beta must be a known key, got 'beta'; set train.objective_options.beta"),
        (
            "per_device_train_batch_size=4",
            "; set train.global_batch_size and train.max_tokens_per_row (the prompt groups in a step",
        ),
        ("gradient-accumulation-steps=8", "; set train.global_batch_size and train.max_tokens_per_row"),
        (
            "train.gradient_accumulation_steps=8",
            "train.gradient_accumulation_steps must be left out, got 8; set global_batch_size",
        ),
        ("num_train_epochs=3", "; write train.num_train_epochs, or put it into `train`"),
        ("epochs=3", "; set train.num_train_epochs"),
        ("learning_rate=1e-5", "; write train.learning_rate, or put it into `train`"),
        ("lr=1e-5", "; set train.learning_rate"),
        ("max_length=512", "; set prepare.max_length (prompt and completion, in tokens)"),
        ("train.max_length=512", "train.max_length must be a known key, got 'max_length'; set prepare.max_length"),
        ("lora_r=16", "; write train.lora_r"),
        ("bf16=true", "; write train.bf16"),
        ("dataset=x/y", "; set data.source and data.path"),
        ("data.max_samples=5", "data.max_samples must be a key of the recipe, got an unknown one; set data.limit"),
        ("model=x/y", "; set model_name_or_path"),
        ("deepspeed=zero3.json", "; set train.sharding and train.cpu_offload"),
        ("evaluation.tasks=[mmlu]", "; set evaluation.lm_eval"),
        (
            "train.load_best_model_at_end=true",
            "train.load_best_model_at_end must be a known key, got 'load_best_model_at_end'; set train.keep_best",
        ),
        ("ref_model=x/y", "; set reference.model_name_or_path (left out, it is the model that training starts from)"),
        ("sft_model=x/y", "; set model_name_or_path (the policy begins as this model"),
        ("train.precompute_ref_log_probs=true", "; leave it out: the reference's log-probabilities are always computed"),
        ("resume_from_checkpoint=out", "; leave it out: the same command goes on from where a run was"),
        # A recipe's own keys in another section.
        (
            "max_thinking_tokens=9",
            "max_thinking_tokens must be a key of the recipe, got an unknown one; set evaluation.max_thinking_tokens",
        ),
        ("train.max_thinking_tokens=9", "got 'max_thinking_tokens'; leave it out: what a model is trained on must be its own"),
        (
            "sample.max_thinking_tokens=9",
            "sample.max_thinking_tokens must be a key of the recipe, got an unknown one; leave it out: what",
        ),
        (
            "judge.max_thinking_tokens=9",
            "; set evaluation.max_thinking_tokens (of the answers that are judged; a judge's own thought is",
        ),
        ("judge.second.max_thinking_tokens=9", "; set evaluation.max_thinking_tokens (of the answers that are judged"),
        ("evaluation.think_tokens=[a, b]", "; write think_tokens at the top of the recipe, outside of evaluation"),
        ("train.think_tokens=[a, b]", "; write think_tokens at the top of the recipe, outside of train"),
        (
            "evaluation.chat_template_kwargs={a: 1}",
            "; write chat_template_kwargs at the top of the recipe, outside of evaluation",
        ),
        (
            "evaluation.benchmarks.gsm8k.think_tokens=[a, b]",
            "; write think_tokens at the top of the recipe, outside of evaluation",
        ),
        ("sample.seed=1", "; write seed at the top of the recipe, outside of sample"),
        (
            "evaluation.seed=1",
            "evaluation.seed must be a key of the recipe, got an unknown one; leave it out: each sample has a seed of",
        ),
        ("top_k=20", "; leave it out: samples are drawn by temperature and top_p alone"),
        ("evaluation.top_k=20", "; leave it out: samples are drawn by temperature and top_p alone"),
        ("sample.top_k=20", "; leave it out: samples are drawn by temperature and top_p alone"),
        ("judge.temperature=0.6", "; leave it out: judges decide greedily, and the answers that they judge are greedy"),
        ("label.judge.temperature=0.6", "; leave it out: judges decide greedily"),
        ("sample.num_samples=4", "; set sample.samples_per_prompt (completions of each prompt)"),
        ("data.num_samples=4", "; set data.limit (the first so many prompts)"),
        ("train.num_samples=4", "; set evaluation.num_samples and data.limit"),
    ],
)
def test_the_message_says_what_to_set(override, said):
    with pytest.raises(RecipeError) as error:
        make_recipe(TRAINED, [override])
    assert said in str(error.value)


def test_a_slip_of_the_pen_inside_a_section_comes_before_another_program_s_name():
    with pytest.raises(RecipeError, match=r"evaluation.max_new_token must be .* did you mean max_new_tokens\?"):
        make_recipe(TRAINED, ["evaluation.max_new_token=5"])


def test_a_name_that_nobody_has_has_no_remedy():
    assert remedy_for("flux_capacity") is None
