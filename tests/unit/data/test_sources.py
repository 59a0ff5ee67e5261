"""Sources: a record of each, as its data has it, becomes the row that it says; what can't be read is named."""

import pytest

from data.parse import Parser
from data.reading.records import Bad, DataSource, Raw
from data.rows import Candidate

USER = [{"role": "user", "content": "Say yes"}]
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
SHAREGPT = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Say yes"}]
JUDGED = (
    "###Task Description:\nRate.\n\n###The instruction to evaluate:\nSay yes\n\n"
    "###Response to evaluate:\nyes\n\n###Reference Answer (Score 5):\nYes!\n"
)


def parse(source, record, **columns):
    return Parser(DataSource(source, "x", columns))(Raw("", 7, record))


def pair(better="yes", worse="no", scores=(None, None), origins=("", "")):
    return (Candidate(better, 1, scores[0], origins[0]), Candidate(worse, -1, scores[1], origins[1]))


@pytest.mark.parametrize(
    ("source", "record", "columns", "messages", "candidates"),
    [
        ("pairs", {"prompt": "Say yes", "chosen": "yes", "rejected": "no"}, {}, USER, pair()),
        ("pairs", {"prompt": USER, "chosen": [YES], "rejected": [NO]}, {}, USER, pair()),
        ("pairs", {"chosen": [*USER, YES], "rejected": [*USER, NO]}, {}, USER, pair()),  # implicit prompt
        (
            "implicit_pairs",  # TRL's own example
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            {},
            [{"role": "user", "content": "The sky is"}],
            pair(" blue.", " green."),
        ),
        (
            "pairs",
            {"conversations": SHAREGPT, "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}},
            {"prompt": "conversations"},
            [{"role": "system", "content": "Be brief."}, *USER],
            pair(),
        ),
        ("pairs", {"q": {"text": "Say yes"}, "a": "yes", "b": "no"}, {"prompt": "q.text", "chosen": "a", "rejected": "b"}, USER, pair()),
        (
            "ultrafeedback",
            {"prompt": "Say yes", "chosen": "yes", "rejected": "no", "metadata": {"score_chosen": 9.0, "score_rejected": 8}},
            {},
            USER,
            pair(scores=(9.0, 8.0)),
        ),
        (
            "ultrafeedback",
            {"prompt": "Say yes", "chosen": [*USER, YES], "rejected": [*USER, NO], "score_chosen": 7.5, "score_rejected": 2},
            {},
            USER,
            pair(scores=(7.5, 2.0)),
        ),
        (
            "simpo",
            {
                **{"prompt": "Say yes", "chosen": [*USER, YES], "rejected": [*USER, NO]},
                **{"all_generated_responses": ["maybe", "no", "yes"], "all_rm_scores": [0.1, -0.5, 0.25]},
            },
            {},
            USER,
            pair(scores=(0.25, -0.5)),
        ),
        (
            "hh_rlhf",
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Say yes\n\nAssistant: yes",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Say yes\n\nAssistant: no",
            },
            {},
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *USER],
            pair(),
        ),
        ("thumbs", {"prompt": "Say yes", "completion": "yes", "label": True}, {}, USER, (Candidate("yes", 1),)),
        ("thumbs", {"prompt": USER, "completion": [NO], "label": False}, {}, USER, (Candidate("no", -1),)),
        ("thumbs", {"messages": [*USER, NO], "label": "False"}, {}, USER, (Candidate("no", -1),)),
        (
            "ratings",
            {"prompt": "Say yes", "completions": ["yes", [NO]], "ratings": [5, "1.5"], "models": ["a", "b"]},
            {},
            USER,
            (Candidate("yes", None, 5.0, "a"), Candidate("no", None, 1.5, "b")),
        ),
        (
            "ultrafeedback_ratings",
            {
                "instruction": "Say yes",
                "completions": [
                    {"response": "yes", "overall_score": 8.5, "model": "gpt-4", "fine-grained_score": 4.25},
                    {"response": "no", "overall_score": "N/A", "model": "bard", "fine-grained_score": 1.0},
                ],
            },
            {},
            USER,
            (Candidate("yes", None, 8.5, "gpt-4"), Candidate("no", None, None, "bard")),
        ),
        (
            "helpsteer",
            {"prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nSay yes", "response": "yes", "helpfulness": 4},
            {},
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *USER],
            (Candidate("yes", None, 4.0),),
        ),
        (
            "helpsteer",
            {"prompt": "Say yes", "response": "yes", "verbosity": 1},
            {"rating": "verbosity"},
            USER,
            (Candidate("yes", None, 1.0),),
        ),
        (
            "pandalm",
            {
                **{"instruction": "Say yes", "input": " ", "response1": "no", "response2": "yes"},
                **{"annotator1": 2, "annotator2": 0, "annotator3": 2},
            },
            {},
            USER,
            pair(),
        ),
        (
            "arena",
            {
                **{"conversation_a": [*USER, NO], "conversation_b": [*USER, YES], "winner": "model_b"},
                **{"model_a": "x", "model_b": "y"},
            },
            {},
            USER,
            pair(origins=("y", "x")),
        ),
        (
            "votes",
            {"prompt": "Say yes", "response_a": "no", "response_b": "yes", "winner": "model_b", "model_a": "x", "model_b": "y"},
            {},
            USER,
            pair(origins=("y", "x")),
        ),
        ("votes", {"prompt": USER, "response_a": [YES], "response_b": [NO], "preference": "A"}, {}, USER, pair()),
        ("votes", {"prompt": "Say yes", "response_a": "no", "response_b": "yes", "preference": "response_b"}, {}, USER, pair()),
        (
            "votes",
            {"q": "Say yes", "x": "yes", "y": "no", "best": "a"},
            {"prompt": "q", "first": "x", "second": "y", "winner": "best"},
            USER,
            pair(),
        ),
        (
            "prometheus",
            {"instruction": JUDGED, "gpt4_score": [4, 5, 3], "response_source": "vicuna"},
            {},
            USER,
            (Candidate("yes", None, 4.0, "vicuna"),),
        ),
    ],
)  # fmt: skip
def test_a_record_becomes_its_row(source, record, columns, messages, candidates):
    id, row = parse(source, record, **columns)
    assert id == "7" and row.messages == messages and row.candidates == candidates and not row.tie


@pytest.mark.parametrize(
    ("source", "record", "labels"),
    [
        ("ultrafeedback", {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": 3.0}, [0, 0]),
        ("pandalm", {"instruction": "p", "response1": "a", "response2": "b", "annotator1": 0}, [0, 0]),
        (
            "pandalm",  # no majority
            {"instruction": "p", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 2, "annotator3": 0},
            [0, 0],
        ),
        ("arena", {"conversation_a": [*USER, YES], "conversation_b": [*USER, NO], "winner": "tie"}, [0, 0]),
        ("arena", {"conversation_a": [*USER, YES], "conversation_b": [*USER, NO], "winner": "tie (bothbad)"}, [-1, -1]),
        ("votes", {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "tie"}, [0, 0]),
        ("votes", {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "Tie (bothbad)"}, [-1, -1]),
    ],
)
def test_votes_without_a_winner_are_ties(source, record, labels):
    _, row = parse(source, record)
    assert row.tie and [one.label for one in row.candidates] == labels


@pytest.mark.parametrize(
    ("source", "record", "reason", "detail"),
    [
        (
            "pairs",
            {"prompt": "p", "chosen": "a"},
            "bad_schema",
            "must have rejected, got no rejected; the row has prompt, chosen",
        ),
        (
            "pairs",
            {"question": "p", "chosen": "The a", "rejected": "The b"},
            "bad_schema",
            "must have prompt, got no prompt; the row has",
        ),
        ("pairs", {"prompt": "p", "chosen": "a", "rejected": None}, "bad_schema", "must have rejected"),
        (
            "pairs",
            {"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"},
            "bad_schema",
            "prompt must hold messages with role",
        ),
        (
            "pairs",
            {"chosen": [*USER, YES], "rejected": [{**YES, "role": "user"}, NO]},
            "prompts_differ",
            "answer the same prompt",
        ),
        (
            "pairs",
            {"chosen": [*USER, YES], "rejected": USER},
            "no_assistant_turn",
            "rejected must end with the assistant's turn",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": "x"},
            "bad_schema",
            "score_chosen must be a number, got 'x'",
        ),
        (
            "pairs",
            {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": True},
            "bad_schema",
            "must be a number, got True",
        ),
        (
            "ratings",
            {"prompt": "p", "completions": ["a"], "ratings": [float("nan")]},
            "bad_schema",
            "ratings must be a number, got nan",
        ),
        (
            "ratings",
            {"prompt": "p", "completions": ["a"], "ratings": [1, 2]},
            "bad_schema",
            "as many as the completions, got 2 for 1",
        ),
        ("ratings", {"prompt": "p", "completions": "a", "ratings": [1]}, "bad_schema", "completions must be a list, got str"),
        ("hh_rlhf", {"chosen": "Human: a", "rejected": "b"}, "bad_schema", "chosen must begin with a blank line"),
        ("hh_rlhf", {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}, "no_assistant_turn", "chosen must end"),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
            "prompts_differ",
            "answer the same prompt",
        ),
        ("thumbs", {"prompt": "p", "completion": "a", "label": 3}, "bad_schema", "label must be true or false, got 3"),
        ("thumbs", {"messages": USER, "label": True}, "no_assistant_turn", "messages must end with the assistant's turn"),
        (
            "ultrafeedback_ratings",
            {"instruction": "p", "completions": ["a"]},
            "bad_schema",
            "completions must hold objects, got str",
        ),
        (
            "pandalm",
            {"instruction": "p", "response1": "a", "response2": "b", "annotator1": 4},
            "bad_schema",
            "must be 0, 1 or 2",
        ),
        (
            "pandalm",
            {"instruction": "p", "response1": True, "response2": "b", "annotator1": 1},
            "bad_schema",
            "response1 must be text",
        ),
        (
            "arena",
            {"conversation_a": [*USER, YES], "conversation_b": [*USER, NO], "winner": "me"},
            "bad_schema",
            "must be one of model_a",
        ),
        (
            "votes",
            {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "model_c"},
            "bad_schema",
            "winner must be one of a, b, tie, tie (bothbad), also as model_a or response_a, got 'model_c'",
        ),
        # Nothing says whether 1 is the first or the second.
        (
            "votes",
            {"prompt": "p", "response_a": "a", "response_b": "b", "preference": 1},
            "bad_schema",
            "must be text, got int",
        ),
        ("votes", {"prompt": "p", "response_a": "a", "winner": "a"}, "bad_schema", "must have response_b"),
        ("prometheus", {"instruction": "Say yes", "gpt4_score": [1]}, "bad_schema", "must have the sections"),
    ],
)
def test_what_a_record_lacks_is_said(source, record, reason, detail):
    _, bad = parse(source, record)
    assert isinstance(bad, Bad) and bad.reason == reason and detail in bad.detail


def test_a_role_that_a_source_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=r"data.columns must name roles of the source thumbs \(id, prompt, .*\), got chosen"):
        parse("thumbs", {}, chosen="better")


def test_a_source_of_prompts_holds_no_preferences():
    with pytest.raises(ValueError, match="must give preferences, got number_comparison"):
        parse("number_comparison", {})


def test_a_renamed_column_is_the_only_one_looked_for():
    _, bad = parse("pairs", {"prompt": "p", "chosen": "a", "rejected": "b"}, chosen="better")
    assert "must have better, got no better" in bad.detail


def test_a_records_own_id_is_kept():
    assert parse("pairs", {"id": 12, "prompt": "p", "chosen": "a", "rejected": "b"})[0] == "12"


def test_a_misnamed_rating_is_said():
    record = {"instruction": "p", "completions": [{"response": "a", "overall_score": 1}]}
    _, bad = parse("ultrafeedback_ratings", record, rating="overal_score")
    assert isinstance(bad, Bad) and "must have overal_score" in bad.detail


def test_simpos_rewards_belong_to_their_completions():
    record = {"prompt": "Say yes", "chosen": [*USER, YES], "rejected": [*USER, NO], "all_generated_responses": [YES, NO]}
    assert parse("simpo", {**record, "all_rm_scores": [2, 1]})[1].candidates == pair(scores=(2.0, 1.0))
    assert parse("simpo", {**record, "all_rm_scores": [1, 1]})[1].tie
    assert "as many as the completions, got 1 for 2" in parse("simpo", {**record, "all_rm_scores": [1]})[1].detail


def test_numbers_and_names_that_nothing_can_hold_are_bad_rows():
    _, bad = parse("pairs", {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 10**400})
    assert "score_chosen must be a number" in bad.detail
    _, bad = parse("pairs", {"promp\ud83d": "p", "chosen": "a", "rejected": "b"})
    assert "promp\\ud83d" in bad.detail


def test_a_vote_is_about_its_turn():
    more = [{"role": "user", "content": "Again"}]
    record = {"conversation_a": [*USER, YES, *more, YES], "conversation_b": [*USER, NO, *more, YES], "winner": "model_a"}
    row = parse("arena", {**record, "turn": 1})[1]
    assert row.messages == USER and row.candidates == pair()
    assert parse("arena", {**record, "turn": 2})[1].reason == "prompts_differ"
    assert "must be one of the conversation's 2 turns, got 3" in parse("arena", {**record, "turn": 3})[1].detail


def test_ratings_that_are_too_few_say_nothing_of_models_that_are_not_there():
    record = {"prompt": "Q", "completions": ["A", "B"], "ratings": [1]}
    assert parse("ratings", record)[1].detail == "ratings must be as many as the completions, got 1 for 2"
    record = {**record, "ratings": [1, 2], "models": ["m"]}
    assert parse("ratings", record)[1].detail == "models must be as many as the completions, got 1 for 2"
