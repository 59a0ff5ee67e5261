"""The meter of paid calls: its bound holds for every text, and its ledger survives a kill at any moment."""

import json

import pytest

from evaluation.spending import Meter, Price, SpendingCapReached, most_prompt_tokens
from tests.stub_server import StubServer, completion
from tests.unit.evaluation.test_judge_client import PRICE, QUESTIONS, fair, judged

MOST = (10 * 10 + 10 * 30) / 1e6  # of ten tokens read and ten written


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "spending.jsonl"


def reserved(ledger, cap=1.0):
    meter = Meter({"m": Price(10.0, 30.0)}, cap, ledger)
    return meter, meter.reserve("m", 10, 10)


@pytest.mark.parametrize("text", ["if(a[i]<=b[j]){c+=(x&1)?-1:+2;}", "3.14159 2.71828", "今天天气很好", "é\ud800🙂", ""])
def test_no_tokenizer_makes_more_tokens_than_are_reserved(text):
    # A tokenizer with a token for every byte, in a template that names the role of each message.
    as_bytes = len(f"<user>{text}".encode("utf-8", "surrogatepass"))
    assert most_prompt_tokens([{"role": "user", "content": text}] * 3) >= 3 * as_bytes
    assert most_prompt_tokens([], {"type": "object"}) - most_prompt_tokens([]) == len('{"type": "object"}')


def test_the_cap_holds_where_every_byte_is_a_token(tmp_path):
    def dense(messages, attempt):
        body = completion(fair(messages), {"model": "stub-judge"})
        body["usage"]["prompt_tokens"] = sum(len(message["content"].encode()) for message in messages)
        return {"body": body}

    ledger, cap = tmp_path / "spending.jsonl", 0.05
    with StubServer(dense) as server, pytest.raises(SpendingCapReached):
        judged(server, tmp_path, cap=cap, ledger=ledger)
    assert 0 < Meter({"stub-judge": PRICE}, ledger=ledger).spent_usd <= cap


def test_a_call_is_in_the_ledger_before_it_is_made_and_counts_in_full_where_its_process_was_killed(ledger):
    reserved(ledger)  # and its process is gone
    later = Meter({"m": Price(10.0, 30.0)}, 1.5 * MOST, ledger)
    assert later.spent_usd == later.unknown_usd == pytest.approx(MOST)
    with pytest.raises(SpendingCapReached):
        later.reserve("m", 10, 10)


def test_calls_that_ended_count_what_they_cost(ledger):
    for end, spent in (
        (lambda meter, one: meter.settle("m", one, 5, 5), MOST / 2),
        (lambda meter, one: meter.release(one), 0.0),
        (lambda meter, one: meter.lose("m", one), MOST),
    ):
        ledger.unlink(missing_ok=True)
        meter, one = reserved(ledger)
        end(meter, one)
        assert meter.spent_usd == Meter(ledger=ledger).spent_usd == pytest.approx(spent)


def test_a_torn_last_line_is_cut_off_and_its_call_counts_in_full(ledger):
    meter, one = reserved(ledger)
    meter.settle("m", one, 1, 1)
    ledger.write_bytes(ledger.read_bytes()[:-9])
    meter, two = reserved(ledger)
    assert meter.spent_usd == pytest.approx(MOST)
    meter.settle("m", two, 5, 5)
    assert Meter(ledger=ledger).spent_usd == pytest.approx(1.5 * MOST)
    assert [json.loads(line)["outcome"] for line in ledger.read_text().splitlines()] == ["reserved", "reserved", "answered"]


def test_two_processes_that_take_turns_keep_the_cap_together(ledger):
    # A dollar for a call.
    meters = [Meter({"m": Price(1e5, 0.0)}, 10.0, ledger) for _ in range(2)]
    calls = 0
    with pytest.raises(SpendingCapReached, match=r"got 10 with \$10\.0000 spent"):
        for turn in range(12):
            meter = meters[turn % 2]
            for _ in range(1 + turn % 3):
                meter.settle("m", meter.reserve("m", 10, 0), 10, 0)
                calls += 1
    assert calls == 10 and Meter(ledger=ledger).spent_usd == pytest.approx(10.0)


def test_what_another_process_has_under_way_counts_in_full_until_it_ended(ledger):
    one, other = (Meter({"m": Price(10.0, 30.0)}, 2.5 * MOST, ledger) for _ in range(2))
    begun = one.reserve("m", 10, 10)
    other.release(other.reserve("m", 10, 10))
    assert other.spent_usd == other.unknown_usd == pytest.approx(MOST)
    one.settle("m", begun, 5, 5)
    other.release(other.reserve("m", 10, 10))
    assert (other.spent_usd, other.unknown_usd) == (pytest.approx(MOST / 2), pytest.approx(0.0))
    assert one.spent_usd == pytest.approx(MOST / 2), "its own lines count once"


def test_a_line_that_another_process_is_writing_is_left_and_read_when_it_is_whole(ledger):
    meter, begun = reserved(ledger)
    meter.release(begun)
    whole = json.dumps({"id": "other", "time": 0, "outcome": "answered", "model": "m", "cost_usd": 0.5}) + "\n"
    before = ledger.read_bytes()
    ledger.write_bytes(before + whole[:20].encode())
    meter._read_others()
    assert meter.spent_usd == 0.0 and ledger.read_bytes() == before + whole[:20].encode()
    ledger.write_bytes(before + whole.encode())
    meter.reserve("m", 10, 10)
    assert meter.spent_usd == 0.5
    ledger.write_bytes(ledger.read_bytes() + b"[]\n")
    with pytest.raises(ValueError, match=r"spending\.jsonl must hold a JSON object per line, got b'\[\]'; remove it"):
        meter.reserve("m", 10, 10)


def test_a_ledger_without_ids_is_counted_line_by_line(ledger):
    line = {"time": 0, "model": "m", "outcome": "answered", "num_prompt_tokens": 1, "num_completion_tokens": 1, "cost_usd": 0.5}
    ledger.write_text((json.dumps(line) + "\n") * 2)
    assert Meter(ledger=ledger).spent_usd == 1.0


def told(usage):
    def behave(messages, attempt):
        return {"body": {**completion(fair(messages), {"model": "stub-judge"}), "usage": usage}}

    return behave


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [1],
        "x",
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": "100", "completion_tokens": "x"},
        {"prompt_tokens": -5, "completion_tokens": -5},
        {"prompt_tokens": 1.5, "completion_tokens": True},
        {"prompt_tokens": 10**400, "completion_tokens": 1},
    ],
)
def test_token_counts_that_cannot_be_are_not_believed(tmp_path, ledger, usage):
    with StubServer(told(usage)) as server:
        summary = judged(server, tmp_path, questions=QUESTIONS[:1], ledger=ledger)
    assert summary["models"]["new"]["score"] == 100.0, "the reply itself can be read"
    meter = Meter({"stub-judge": PRICE}, ledger=ledger)
    begun = [json.loads(line) for line in ledger.read_text().splitlines()]
    most = sum(line["cost_usd"] for line in begun if line["outcome"] == "reserved")
    assert meter.spent_usd == meter.unknown_usd == pytest.approx(most) and most > 0
    assert summary["cost"]["usd"] == pytest.approx(most)
