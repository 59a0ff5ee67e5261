import pytest

from bnf.nearest import did_you_mean


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        # All that are about as like it, the likest first.
        ("dop", ["bnf", "cdpo", "dpo", "dpop", "ipo"], "did you mean dpop or dpo?"),
        ("simppo", ["simpo", "ipo", "dpo"], "did you mean simpo?"),
        ("BNF", ["bnf", "bnf_contrast"], "did you mean bnf?"),
        # A beginning stands for the whole name, and at most three are named.
        (
            "adamw",
            ["grokadamw", "adamw_torch_fused", "adamw_torch", "adamw_8bit"],
            "did you mean adamw_8bit or adamw_torch or adamw_torch_fused?",
        ),
        ("xyz", ["bnf", "dpo"], None),
        ("", ["bnf"], None),
        ("bnf", [], None),
    ],
)
def test_the_names_that_are_most_like_it(name: str, known: list[str], said: str | None) -> None:
    assert did_you_mean(name, known) == said
