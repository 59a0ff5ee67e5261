"""Real sets, whole and damaged: every row is in a group or in the ledger, and a fault costs its own row alone."""

import gzip
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bnf.data.rendering import load_tokenizer
from data.reading.records import DataSource
from tests.unit.data.helpers import LENIENT, MODEL, needs_model, prepare

DATA = Path(os.environ.get("BNF_TEST_DATA", "nowhere"))
pytestmark = [needs_model, pytest.mark.skipif(not DATA.is_dir(), reason="BNF_TEST_DATA names no folder of real data")]

# name → source, file, columns, rows that are read here, and what becomes of all of them
SETS = {
    "ultrafeedback": (
        *("ultrafeedback", "preference/ultrafeedback_binarized.train_clean.1000.jsonl.gz", {}),
        {"kept": 883, "tie": 110, "identical_pair": 4, "empty": 2, "over_length": 1},
    ),
    "hh_rlhf": (
        *("hh_rlhf", "preference/hh-rlhf.harmless-base.test.first1600.jsonl.gz", {}),
        {"kept": 1595, "empty": 4, "prompts_differ": 1},
    ),
    "sharegpt": (
        *("pairs", "preference/llamafactory.dpo_en_demo.json.gz", {"prompt": "conversations"}),
        {"kept": 284, "over_length": 12, "duplicate": 4},
    ),
    "pandalm": (
        *("pandalm", "preference/pandalm.testset-v1.first600.json", {}),
        {"kept": 440, "duplicate": 72, "tie": 68, "empty": 14, "bad_schema": 6},
    ),
    "thumbs": (*("thumbs", "rated/llamafactory.kto_en_demo.json.gz", {}), {"kept": 290, "over_length": 10}),
    "prometheus": (*("prometheus", "rated/prometheus.vicuna_eval.json.gz", {}), {"kept": 211, "middle": 109}),
}  # fmt: skip


def records(name):
    path = DATA / SETS[name][1]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()] if ".jsonl" in path.name else json.loads(data)


@pytest.mark.integration
@pytest.mark.parametrize("name", SETS)
def test_every_row_of_a_real_set_is_accounted_for_and_its_ids_are_the_templates(tmp_path, name):
    source, file, columns, expected = SETS[name]
    groups, found, counts = prepare(tmp_path / "out", DataSource(source, str(DATA / file), columns))
    rows = [row for row in found if "completion" not in row]
    assert len(rows) == len(records(name)) == counts["num_rows"]
    assert Counter(row["outcome"] for row in rows) == counts["rows"] == expected
    assert len({group.prompt_ids for group in groups}) == len(groups), "one prompt is one group"
    tokenizer = load_tokenizer(MODEL)
    lines = [json.loads(line) for line in (tmp_path / "out" / "groups.jsonl").read_text().splitlines()]
    merged = 0
    for group, line in list(zip(groups, lines, strict=True))[:60]:
        for completion, one in zip(group.completions, line["completions"], strict=True):
            conversation = [*line["messages"], {"role": "assistant", "content": one["text"]}]
            whole = tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
            ids = [*group.prompt_ids, *completion.token_ids, 198]
            merged += ids != whole
            assert tokenizer.decode(ids) == tokenizer.decode(whole) and completion.token_ids[-1] == 2
    assert merged <= 3, "texts that begin with white space alone are tokenized apart from the prompt"


def test_rows_of_one_prompt_come_together(tmp_path):
    source, file, columns, _ = SETS["prometheus"]
    config = replace(LENIENT, pairing="best_worst")
    groups, _, counts = prepare(tmp_path / "out", DataSource(source, str(DATA / file), columns), config=config)
    assert len(groups) == counts["num_pairs"] == 53 and all(len(group.completions) == 2 for group in groups)
    for group in groups:
        (best, worst), scores = group.pairs[0], [one.score for one in group.completions]
        assert scores[best] > scores[worst]


def test_faults_cost_their_own_row(tmp_path):
    rows = records("ultrafeedback")[:40]
    lines = [json.dumps(row).encode() for row in rows]
    lines[3] = lines[3][:50]
    lines[5] = lines[5].replace(b'"prompt": "', b'"prompt": "\xff', 1)
    lines[7] = json.dumps({**rows[7], "chosen": " "}).encode()
    lines[9] = json.dumps({**rows[9], "prompt": "word " * 100_000}).encode()
    lines[11] = json.dumps({**rows[11], "rejected": 5}).encode()
    lines[13] = json.dumps({"question" if name == "prompt" else name: value for name, value in rows[13].items()}).encode()
    (tmp_path / "damaged.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "whole.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    damaged, found, _ = prepare(tmp_path / "out", ("ultrafeedback", tmp_path / "damaged.jsonl"))
    whole, before, _ = prepare(tmp_path / "all", ("ultrafeedback", tmp_path / "whole.jsonl"))
    faults = {4: "bad_schema", 6: "not_utf8", 8: "empty", 10: "over_length", 12: "bad_schema", 14: "bad_schema"}
    assert {row["line"]: row["outcome"] for row in found} == {row["line"]: row["outcome"] for row in before} | faults
    details = {row["line"]: row.get("detail", "") for row in found}
    assert "not JSON" in details[4] and "UTF-8" in details[6] and "chosen must hold text" in details[8]
    assert "got 100031 tokens against 1800" in details[10]
    assert "rejected must be text or a list of messages, got int" in details[12]
    assert "must have prompt, got no prompt; the row has question" in details[14]
    assert [group for group in whole if int(group.id) not in faults] == damaged


def test_a_wrong_column_is_one_message(tmp_path):
    source = DataSource("ultrafeedback", str(DATA / SETS["ultrafeedback"][1]), {"chosen": "better"})
    message = (
        r"must leave at least one row, got 100\.0% of 1000 \(1000 bad_schema; "
        r"first line 1: .*must have better, got no better; the row has"
    )
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "out", source)


def test_a_broken_line_of_an_array_is_one_message_with_its_place(tmp_path):
    text = (DATA / SETS["pandalm"][1]).read_text().splitlines()
    text[30] = text[30].replace('"', "", 1)
    (tmp_path / "broken.json").write_text("\n".join(text))
    with pytest.raises(ValueError, match=r"must be a JSON array, got .*broken\.json: .* at line 31, column"):
        prepare(tmp_path / "out", ("pandalm", tmp_path / "broken.json"))
