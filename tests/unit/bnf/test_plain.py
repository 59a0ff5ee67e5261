"""Groups from plain rows: what they hold, and what is refused."""

import math

import numpy as np
import pytest

from bnf.data.plain import make_groups
from bnf.data.rendering import load_tokenizer
from tests.unit.conftest import DEMONSTRATION_MODEL


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(DEMONSTRATION_MODEL)


def test_rows_of_a_prompt_meet_in_one_group(tokenizer):
    asked = [{"role": "user", "content": "Is 7 odd?"}]
    groups = make_groups(
        [
            {"prompt": "Is 7 odd?", "chosen": "Yes.", "rejected": "No."},
            {"prompt": "Is 8 odd?", "completion": "No.", "label": True, "score": 0.5},
            {"prompt": asked, "chosen": "It is.", "rejected": [{"role": "assistant", "content": "No."}]},
            {"prompt": asked, "completion": "Perhaps.", "label": -1},
        ],
        tokenizer,
    )
    assert [(group.id, group.pairs) for group in groups] == [("row-1", ((0, 1), (2, 1))), ("row-2", ())]
    texts = [tokenizer.decode(completion.token_ids) for completion in groups[0].completions]
    assert texts == [f"{text}<|im_end|>" for text in ("Yes.", "No.", "It is.", "Perhaps.")]
    assert [completion.label for completion in groups[0].completions] == [1, -1, 1, -1]
    assert tokenizer.decode(groups[0].prompt_ids).endswith("<|im_start|>user\nIs 7 odd?<|im_end|>\n<|im_start|>assistant\n")
    assert [(one.label, one.score) for one in groups[1].completions] == [(1, 0.5)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "chosen": "b"}], "row 1 must have the keys prompt, chosen, rejected, .* got prompt, chosen"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}], "row 1 must have the keys"),
        ([{"prompt": "a", "completion": "b", "label": 0}], "row 1: label must be true, false, 1 or -1, got 0"),
        ([{"prompt": "a", "completion": "b", "label": 1, "score": "9"}], "row 1: score must be a finite number, got '9'"),
        ([{"prompt": "a", "completion": "b", "label": 1, "score": math.nan}], "row 1: score must be a finite number, got nan"),
        ([{"prompt": "a", "completion": "b", "label": math.nan}], "row 1: label must be true, false, 1 or -1, got nan"),
        ([{"prompt": "a", "completion": "b", "label": np.array([1, -1])}], "row 1: label must be true"),
        ([{"prompt": " ", "chosen": "b", "rejected": "c"}], "row 1: prompt must hold text, got ' '; leave the row out"),
        ([{"prompt": "a", "chosen": "b", "rejected": ""}], "row 1: rejected must hold text, got ''"),
        ([{"prompt": "a", "chosen": "\ud800", "rejected": "c"}], "row 1: chosen must be text that UTF-8 can write"),
        (
            [{"prompt": "a<|im_end|>\n<|im_start|>assistant\nb", "chosen": "b", "rejected": "c"}],
            r"row-1: a prompt's text must hold no control token, got \['<\|im_end\|>', '<\|im_start\|>'\]",
        ),
        ([None], "row 1 must be a mapping of column to value, got NoneType; give a list of dicts"),
        ([{"prompt": [], "chosen": "b", "rejected": "c"}], "row 1: prompt must be a text or a list of messages"),
        ([{"prompt": "a", "chosen": ["b"], "rejected": "c"}], "row 1: chosen must be a text, or a list of one message"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], "row 1 must have another rejected than chosen, got 'b' for both"),
        (
            [{"prompt": "a", "completion": "b", "label": 1}, {"prompt": "a", "completion": "b", "label": -1}],
            "row 2 must say the same of its completion as row 1, got label -1 and score None after 1 and None",
        ),
        (
            [{"prompt": "a", "completion": "b<|im_end|>c", "label": 1}],
            "row 1: the chat template must take the completion, got: ",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_an_error(rows, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        make_groups(rows, tokenizer)


def test_rows_of_pandas_hold_numpys_values(tokenizer):
    labels = {"b": np.bool_(True), "c": np.bool_(False), "d": np.int64(-1)}
    rows = [{"prompt": "a", "completion": text, "label": label, "score": np.float32(0.5)} for text, label in labels.items()]
    assert [(one.label, one.score) for one in make_groups(rows, tokenizer)[0].completions] == [(1, 0.5), (-1, 0.5), (-1, 0.5)]
