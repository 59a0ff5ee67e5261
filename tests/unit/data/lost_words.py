"""What becomes of every word of a preference, in each form that data sets have and through each kind of chat template.

    python -m tests.unit.data.lost_words [FOLDER]    # prints the table, of the templates here or of a folder's *.jinja

The records' words begin with `zz`, so that no template holds them. A row is whole where all of them stand in its decoded ids, each
side's own on that side; a word in a column that is named as not read is accounted for.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from data.preparing.config import PrepareConfig
from data.preparing.render import RenderedRow, RowRenderer
from data.reading.records import DataSource, Raw
from tests.unit.data.helpers import MODEL

TEMPLATES = Path(__file__).parent / "templates"
WORD = re.compile(r"zz[a-z]+")

Record = dict[str, Any]


def user(text: str, **more: Any) -> Record:
    return {"role": "user", "content": text, **more}


def assistant(text: str | None, **more: Any) -> Record:
    return {"role": "assistant", "content": text, **more}


def said(author: str, text: str) -> Record:
    return {"from": author, "value": text}


def call(word: str) -> Record:
    return {"id": f"call {word}", "type": "function", "function": {"name": "zzlook", "arguments": {"zzplace": word, "days": 3}}}


SIDES: Record = {"chosen": "zzyes indeed", "rejected": "zzno never"}
ASKED = [user("zzask this")]
TOOL = {
    "type": "function",
    "function": {
        "name": "zzlook",
        "description": "zzfinds a place",
        "parameters": {"type": "object", "properties": {"zzplace": {"type": "string", "description": "zzwhere to"}}},
    },
}
CALLED = [user("zzask this"), assistant("", tool_calls=[call("zzoslo")]), {"role": "tool", "content": 'zzcold "-3"'}]
WHOLE = [{"role": "system", "content": "zzbrief please"}, *ASKED]

# name → (record, columns)
FORMS: dict[str, tuple[Record, dict[str, str]]] = {
    "text": ({"prompt": "zzask this", **SIDES}, {}),
    "text with blanks around": ({"prompt": "\n zzask this \n", "chosen": " zzyes ", "rejected": "zzno\n"}, {}),
    "text in brackets": ({"prompt": "[zzask] {this}", "chosen": "[zzyes, 1]", "rejected": '{"zzno": 1}'}, {}),
    "system and user": ({"prompt": WHOLE, **SIDES}, {}),
    "system in the middle": (
        {"prompt": [*ASKED, assistant("zzwell"), {"role": "system", "content": "zzbrief please"}, user("zzagain")], **SIDES},
        {},
    ),
    "developer and user": ({"prompt": [{"role": "developer", "content": "zzbrief please"}, *ASKED], **SIDES}, {}),
    "ShareGPT": (
        {
            "conversations": [said("human", "zzask this"), said("gpt", "zzwell"), said("human", "zzagain")],
            "chosen": said("gpt", "zzyes"),
            "rejected": said("gpt", "zzno"),
        },
        {"prompt": "conversations"},
    ),
    "roles in capitals": ({"prompt": [said("Human", "zzask this"), said("GPT", "zzwell"), said("USER", "zzagain")], **SIDES}, {}),
    "prompter and model": (
        {
            "prompt": [{"role": "prompter", "content": "zzask this"}, {"role": "model", "content": "zzwell"}, user("zzagain")],
            **SIDES,
        },
        {},
    ),
    "a role of its own": ({"prompt": [{"role": "narrator", "content": "zzonce upon"}, *ASKED], **SIDES}, {}),
    "the same text twice": ({"prompt": [*ASKED, assistant("zzask this"), *ASKED], **SIDES}, {}),
    "function_call and observation": (
        {
            "prompt": [
                said("human", "zzask this"),
                said("function_call", json.dumps({"name": "zzlook", "arguments": {"zzplace": "zzoslo"}})),
                said("observation", '{"zzcold": -3}'),
            ],
            **SIDES,
        },
        {},
    ),
    "a call": ({"prompt": CALLED, **SIDES}, {}),
    "a call without content": ({"prompt": [CALLED[0], assistant(None, tool_calls=[call("zzoslo")]), CALLED[2]], **SIDES}, {}),
    "a call with content": (
        {"prompt": [CALLED[0], assistant("zzmoment", tool_calls=[call("zzoslo")]), CALLED[2]], **SIDES},
        {},
    ),
    "an older function_call": (
        {
            "prompt": [
                *ASKED,
                assistant(None, function_call={"name": "zzlook", "arguments": '{"zzplace": "zzoslo"}'}),
                {"role": "function", "name": "zzlook", "content": "zzcold"},
            ],
            **SIDES,
        },
        {},
    ),
    "tools": ({"prompt": ASKED, "tools": [TOOL], **SIDES}, {}),
    "tools as JSON, and a call": ({"prompt": CALLED, "tools": json.dumps([TOOL["function"]]), **SIDES}, {}),
    "completions that call": (
        {
            "prompt": ASKED,
            "chosen": [assistant("zzlet me", tool_calls=[call("zzoslo")])],
            "rejected": [assistant("zzlet me", tool_calls=[call("zzrome")])],
        },
        {},
    ),
    "documents": ({"prompt": ASKED, "documents": [{"title": "zzatlas", "text": "zzmaps of all"}], **SIDES}, {}),
    "reasoning_content": (
        {
            "prompt": ASKED,
            "chosen": [assistant("zzyes", reasoning_content="zzbecause so")],
            "rejected": [assistant("zzyes", reasoning_content="zzguess only")],
        },
        {},
    ),
    "thinking": (
        {
            "prompt": ASKED,
            "chosen": [assistant("zzyes", thinking="zzbecause so")],
            "rejected": [assistant("zzno", thinking="zzguess only")],
        },
        {},
    ),
    "reasoning in the text": (
        {
            "prompt": ASKED,
            "chosen": "<think>\nzzbecause so\n</think>\n\nzzyes",
            "rejected": "<think>\nzzguess only\n</think>\n\nzzyes",
        },
        {},
    ),
    "reasoning in an earlier turn": (
        {"prompt": [*ASKED, assistant("<think>\nzzbecause so\n</think>\n\nzzwell"), user("zzagain")], **SIDES},
        {},
    ),
    "a user's name": ({"prompt": [user("zzask this", name="zzalice")], **SIDES}, {}),
    "a system column": ({"system": "zzbrief please", "prompt": "zzask this", **SIDES}, {}),
    "Alpaca's input": ({"instruction": "zzask this", "input": "zzapple", **SIDES}, {"prompt": "instruction"}),
    "parts of text": (
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "zzask"}, {"type": "text", "text": "zzthis"}]}],
            **SIDES,
        },
        {},
    ),
    "an image": (
        {"prompt": [{"role": "user", "content": [{"type": "image", "url": "x"}, {"type": "text", "text": "zzask"}]}], **SIDES},
        {},
    ),
    "a text beside whole conversations": (
        {"prompt": "zzask this", "chosen": [*WHOLE, assistant("zzyes")], "rejected": [*WHOLE, assistant("zzno")]},
        {},
    ),
    "conversations as JSON": (
        {"prompt": "zzask this", **{side: json.dumps([*ASKED, assistant(text)]) for side, text in SIDES.items()}},
        {},
    ),
    "conversations as Python prints them": (
        {"prompt": "zzask this", **{side: str([*ASKED, assistant(text)]) for side, text in SIDES.items()}},
        {},
    ),
    "conversations as NumPy prints them": (
        {"prompt": "zzask this", **{side: f"[{ASKED[0]}\n {assistant(text)}]" for side, text in SIDES.items()}},
        {},
    ),
    "a column that nothing reads": ({"prompt": "zzask this", "background": "zzlong story", **SIDES}, {}),
}  # fmt: skip


def templates(folder: Path = TEMPLATES) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.jinja"))}


def renderer(template: Path, folder: Path, **settings: Any) -> RowRenderer:
    """Rows of every form through a template, the form's number as the source."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(MODEL / name, folder)
    shutil.copy(template, folder / "chat_template.jinja")
    sources = [DataSource("pairs", name, columns) for name, (_, columns) in FORMS.items()]
    return RowRenderer(folder, sources, PrepareConfig(**settings))


def render(rows: RowRenderer, form: str) -> RenderedRow:
    (row,) = rows([(list(FORMS).index(form), Raw("", 1, FORMS[form][0]))])
    return row


def lost_words(record: Record, row: RenderedRow, decode: Any) -> list[str]:
    """The words of a record that are neither in its row's ids nor in a column that is named as not read."""
    prompt = decode(row.prompt_ids)
    sides = dict(zip(("chosen", "rejected"), (prompt + decode(one.ids) for one in row.candidates), strict=True))
    lost = []
    for column, value in record.items():
        if column not in row.unread:
            words = WORD.findall(json.dumps(value))
            lost += [word for word in words if word not in sides.get(column, prompt)]
    return lost


def main() -> None:
    from bnf.data.rendering import load_tokenizer

    paths = templates(Path(sys.argv[1]) if len(sys.argv) > 1 else TEMPLATES)
    num = {"kept": 0, "refused": 0, "lost": 0}
    with tempfile.TemporaryDirectory() as place:
        for name, path in paths.items():
            rows = renderer(path, Path(place) / name)
            tokenizer = load_tokenizer(Path(place) / name)
            for form, (record, _) in FORMS.items():
                row = render(rows, form)
                words = len(set(WORD.findall(json.dumps(record))))
                if row.outcome:
                    num["refused"] += 1
                    print(f"{name:22} {form:36} {row.outcome}: {row.detail}")
                    continue
                lost = lost_words(record, row, lambda ids, tokenizer=tokenizer: tokenizer.decode(list(ids)))
                num["lost" if lost else "kept"] += 1
                named = len(set(WORD.findall(json.dumps({column: record[column] for column in row.unread}))))
                unread = f", {named} in a column named as not read ({', '.join(row.unread)})" if named else ""
                missing = f", lost: {' '.join(lost)}" if lost else ""
                print(
                    f"{name:22} {form:36} kept: {words - len(set(lost)) - named} of {words} words in the ids{unread}{missing}"
                )
    print(f"{sum(num.values())} inputs: {num['kept']} kept whole, {num['refused']} refused, {num['lost']} kept with words lost")


if __name__ == "__main__":
    main()
