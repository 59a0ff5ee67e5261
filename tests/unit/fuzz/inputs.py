"""Strategies for texts, JSON values and damaged files. What is drawn resembles what models, people and power cuts leave."""

import copy
import json
import math

from hypothesis import strategies as st

# Pieces that some reader takes for more than text.
PIECES = (
    *(
        "<think>",
        "</think>",
        "[THINK]",
        "[/THINK]",
        "```",
        "````",
        "~~~",
        "`",
        "\n",
        "\r\n",
        " ",
        "\t",
        "\u2028",
        "\ufeff",
        "\x00",
    ),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[INST]", "<start_of_turn>model"),
    *(
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "\\",
        ",",
        ":",
        "null",
        "true",
        "NaN",
        "Infinity",
        "-0",
        "1e999",
        "0x10",
        "0.1",
        "1/2",
        "½",
        "٣",
    ),
    *(
        '{"answer": "4"}',
        '{"reasoning": "so", "answer": 4}',
        '{"answer": {"answer": []}}',
        '{"score": "7"}',
        '{"choice": "A++"}',
    ),
    *("[[A>B]]", "[[B>>A]]", "[[A=B]]", "[A>B]", "[[5]]", "[[rating", "Rating: [[11]]", "[[1e9]]", "My final verdict is"),
    *(
        "\\boxed{4}",
        "\\boxed{",
        "$",
        "$$",
        "\\frac{1}{2}",
        "\\frac",
        "\\sqrt[3]{8}",
        "^",
        "_",
        "\\text{a}",
        "\\left(",
        "9^{9^{9}}",
    ),
    *("answer is (B)", "The answer is", "Answer: C", "(A)", "**B**", "#### 42", "A or B", "1,000", "1 000.5", "-", "%", "€"),
    *(
        "{{ 7*7 }}",
        "{% for x in y %}",
        "{#",
        "!!python/object:os.system",
        "&a",
        "*a",
        "<<:",
        "---",
        "...",
        "|",
        ">",
        "? ",
        "- ",
    ),
    *(
        "<script>alert(1)</script>",
        "](javascript:x)",
        "\x1b[2J",
        "\x1b]52;c;x\x07",
        "=1+1",
        "../../x",
        "/etc/passwd",
        "\ud800",
        "\u202e",
    ),
    *("é", "日本語", "🙂", "ß", "İ", "a" * 300, "(" * 200, "[" * 200, "9" * 400, " " * 200, "\n" * 100),
)
pieces = st.sampled_from(PIECES)
texts = st.lists(st.one_of(pieces, pieces, st.text(max_size=12)), max_size=10).map("".join)
numbers = st.one_of(
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63, 10**30, -(10**400), 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf]),
    st.floats(),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def changed(draw, seeds, keys=()):
    """A JSON value like one of the seeds, of which some parts are other values, lacking, or called otherwise; or another value at all."""
    if draw(st.integers(0, 19)) == 0:
        return draw(values)
    value = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        place = value
        while True:
            inner = [key for key in _keys(place) if isinstance(place[key], dict | list) and place[key]]
            if not inner or draw(st.booleans()):
                break
            place = place[draw(st.sampled_from(inner))]
        known = _keys(place)
        if not known:
            break
        key = draw(st.sampled_from(known))
        match draw(st.sampled_from(["other", "other", "other", "none", "gone", "more", "renamed"])):
            case "other":
                place[key] = draw(values)
            case "none":
                place[key] = None
            case "gone":
                del place[key]
            case "more" if isinstance(place, dict):
                place[draw(st.one_of(st.sampled_from([*keys, "id"]), texts))] = draw(values)
            case "renamed" if isinstance(place, dict):
                place[draw(texts)] = place.pop(key)
            case _:
                place.append(draw(values)) if isinstance(place, list) else None
    return value


def _keys(value):
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def to_bytes(value):
    """JSON as Python's own writer has it, NaN and halves of surrogate pairs among it."""
    return json.dumps(value).encode()


@st.composite
def damaged(draw, files):
    """A file's bytes, of which a part is lacking, doubled, zeroed or replaced; or whole."""
    data = draw(files)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 1, 2, 8, 40, 10**6])))
        part = data[start:end]
        piece = draw(st.one_of(pieces.map(lambda text: text.encode(errors="surrogatepass")), st.binary(max_size=4)))
        data = data[:start] + draw(st.sampled_from([b"", part + part, bytes(len(part)), piece, piece + part])) + data[end:]
    return data


@st.composite
def json_lines(draw, records, most=4):
    """A file of JSON Lines, mostly whole."""
    lines = draw(st.lists(records.map(to_bytes), min_size=1, max_size=most))
    data = draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\n\n"])).join(lines) + draw(
        st.sampled_from([b"\n", b"\n", b""])
    )
    return draw(damaged(st.just(data))) if draw(st.integers(0, 3)) == 0 else data
