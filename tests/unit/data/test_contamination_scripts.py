"""Contamination in scripts that are written without blanks between words, and in texts that mix them."""

import json
import re
import unicodedata

import pytest

from data import contamination
from data.scripts import UNDIVIDED as _UNDIVIDED
from data.words import HALF as _HALF
from data.words import ngrams as _grams
from data.words import words_of as _words
from tests.unit.data.test_contamination import _check

CHINESE = "小明有十二个苹果，他把其中的一半送给了小红，然后又从商店买了三十个苹果，请问小明现在一共有多少个苹果？请写出完整的计算过程。"
JAPANESE = (
    "花子さんはりんごを十二個持っています。半分を太郎くんにあげて、お店でさらに三十個買いました。今りんごはいくつありますか。"
)
THAI = "โรงเรียนแห่งหนึ่งมีนักเรียนสามร้อยคนครึ่งหนึ่งเป็นเด็กผู้หญิงและมีครูอีกยี่สิบคนรวมทั้งหมดมีกี่คน"
KHMER = "សាលារៀនមួយមានសិស្សបីរយនាក់ពាក់កណ្តាលជាក្មេងស្រីនិងមានគ្រូម្ភៃនាក់តើសរុបមានប៉ុន្មាននាក់"
LAO = "ໂຮງຮຽນແຫ່ງໜຶ່ງມີນັກຮຽນສາມຮ້ອຍຄົນເຄິ່ງໜຶ່ງເປັນເດັກຍິງແລະມີຄູອີກຊາວຄົນລວມທັງໝົດມີຈັກຄົນ"
BURMESE = "ကျောင်းတစ်ကျောင်းတွင်ကျောင်းသားသုံးရာရှိပြီးတစ်ဝက်မှာမိန်းကလေးဖြစ်သည်ဆရာနှစ်ဆယ်လည်းရှိသည်စုစုပေါင်းမည်မျှနည်း"
MIXED = "用Python写一个函数，把列表[1, 2, 3]里的数字相加，再用print输出结果，最后说明时间复杂度是O(n)还是O(1)。"
ENGLISH = (
    "A farmer has twelve cows and buys thirty more cows at the market before selling half of all of them; how many are left?"
)
TEXTS = [CHINESE, JAPANESE, THAI, KHMER, LAO, BURMESE, MIXED, ENGLISH]


def _items(tmp_path, questions):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps({"question": question, "answer": "x #### 36"}) + "\n" for question in questions))
    return path


@pytest.mark.parametrize("around", ["{}", "请回答：{} 谢谢", "Answer this, please! {}\nThanks.", "คำถาม {} ครับ", "前{}後"])
def test_an_item_that_was_copied_is_found_in_every_script(tmp_path, around):
    counts, found = _check(tmp_path, _items(tmp_path, TEXTS), [(around.format(text), "x") for text in TEXTS])
    assert [(match["item"], match["group"], match["match"]) for match in found] == [
        (f"gsm8k-{number}", f"g{number}", "exact") for number in range(len(TEXTS))
    ]
    assert counts["num_items_too_short"] == 0


@pytest.mark.parametrize("text", TEXTS)
def test_punctuation_blanks_and_breaks_do_not_hide_an_item(tmp_path, text):
    hidden = re.sub(r"[，。？、；]", " ", text).replace("的", "的\n").replace("น", "น\u200b").upper()
    _, found = _check(tmp_path, _items(tmp_path, [text]), [(hidden, "x")])
    assert [match["match"] for match in found] == ["exact"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_long_part_overlaps_and_a_short_one_does_not(tmp_path, text):
    words, lengths = _words(text)
    place = next(end for end in range(len(words)) if sum(lengths[:end]) >= 52)
    separator = " " if text in (ENGLISH, MIXED) else ""
    parts = [separator.join(words[:end]) for end in (place, place - 1)]
    _, found = _check(tmp_path, _items(tmp_path, [text]), [(part, "x") for part in parts])
    assert [(match["group"], match["match"]) for match in found] == [("g0", "ngram")]


def test_other_texts_in_the_same_script_are_not_found(tmp_path):
    others = [
        "今天天气很好，我们一起去公园散步吧，然后去商店买一些水果和面包。",
        "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันเถอะแล้วค่อยกลับบ้าน",
    ]
    counts, found = _check(tmp_path, _items(tmp_path, TEXTS), [(other, other) for other in others])
    assert found == [] and counts["num_groups"] == 0


def test_short_items_are_found_whole_from_six_words_on_and_shorter_ones_are_counted(tmp_path):
    # Twelve characters of Chinese, 24 of Thai, six words; and one less of each.
    long_enough = ["小红现在一共有多少个苹果", THAI[:24], "How many cows are left there"]
    too_short = ["小红现在一共有多少苹果", THAI[:23], "How many cows are left", "2 + 2 = ?", "三千二百一十"]
    texts = [(f"a {text} b", "x") for text in (*long_enough, *too_short)]
    counts, found = _check(tmp_path, _items(tmp_path, [*long_enough, *too_short]), texts)
    assert [(match["item"], match["group"], match["match"]) for match in found] == [
        (f"gsm8k-{number}", f"g{number}", "exact") for number in range(3)
    ]
    assert (counts["num_items"], counts["num_items_compared"], counts["num_items_too_short"]) == (8, 3, 5)


def test_a_short_item_is_not_found_in_part(tmp_path):
    parts = [("小红现在一共有多少个苹果", "x"), ("现在一共有多少个苹果呢", "x")]
    _, found = _check(tmp_path, _items(tmp_path, ["小红现在一共有多少个苹果呢"]), parts)
    assert found == []


def test_words_with_blanks_are_compared_as_ever():
    text = "Größe, 3.5 naïve_words — ПРИВЕТ мир 안녕 하세요 שלום नमस्ते\u200d"
    words = ["grösse", "3", "5", "naïve", "words", "привет", "мир", "안녕", "하세요", "שלום", "नमस्ते"]
    assert _words(text) == (words, [4] * len(words))
    words = [str(number) for number in range(40)]
    assert [gram for _, gram in _grams(words, [4] * 40, 52)] == [tuple(words[start : start + 13]) for start in range(28)]
    # The path for whole words gives what the one for parts of words gives.
    mixed = [*words, "字"]
    assert [gram for _, gram in _grams(mixed, [4] * 40 + [2], 52)][:28] == [
        tuple(words[start : start + 13]) for start in range(28)
    ]


def test_runs_are_the_shortest_that_are_long_enough():
    words, lengths = _words("用Python写一个list函数 ab กขค")
    assert words == ["用", "python", "写", "一", "个", "list", "函", "数", "ab", "ก", "ข", "ค"]
    assert lengths == [2, 4, 2, 2, 2, 4, 2, 2, 4, 1, 1, 1]
    assert [(start, "".join(gram)) for start, gram in _grams(words, lengths, 8)] == [
        (0, "用python写"),
        (1, "python写一"),
        (2, "写一个list"),
        (3, "一个list"),
        (4, "个list函"),
        (5, "list函数"),
        (6, "函数ab"),
        (7, "数abกข"),
    ]


_HALF_NAMES = (
    "CJK UNIFIED ",
    "CJK COMPATIBILITY IDEOGRAPH",
    "HIRAGANA ",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "BOPOMOFO ",
    "IDEOGRAPHIC ",
)
_HALF_NAMES += ("HANGZHOU ", "COMBINING KATAKANA", "VERTICAL IDEOGRAPHIC ", "HENTAIGANA ")
_QUARTER_NAMES = ("THAI ", "LAO ", "MYANMAR ", "KHMER ", "TAI LE ", "NEW TAI LUE ", "TAI THAM ", "TAI VIET ", "AHOM ")


def test_the_character_classes_are_unicodes():
    for code in range(0x110000):
        character = chr(code)
        name, is_letter = unicodedata.name(character, ""), unicodedata.category(character)[0] in "LM"
        if not name or not (is_letter or unicodedata.category(character) == "Nl"):
            continue
        found = (2 if _HALF.match(character) else 1) if _UNDIVIDED.match(character) else 4
        assert found == (2 if name.startswith(_HALF_NAMES) else 1 if name.startswith(_QUARTER_NAMES) else 4), (hex(code), name)


def test_digits_of_these_scripts_are_numbers():
    for text in ("๑๒๓", "១២៣", "၁၂၃", "໑໒໓", "１２３"):
        assert _words(f"字{text}") == (["字", unicodedata.normalize("NFKC", text)], [2, 4]) and text.isdigit()


def test_messages_with_other_fields_are_searched_too():
    index = contamination.ItemIndex([{"id": "a", "question": ENGLISH}])
    message = {"role": "assistant", "content": None, "tool_calls": [{"arguments": {"q": ENGLISH}}]}
    group = {"id": "g", "messages": [message], "completions": []}
    assert [match.kind for match in index.matches(group)] == ["exact"]


VIETNAMESE = "Một cửa hàng bán được bốn mươi tám chiếc kẹp vào tháng tư và sau đó bán được một nửa số đó"
KOREAN = "나탈리아는 4월에 친구 48명에게 클립을 팔았고 5월에는 그 절반을 팔았습니다 그녀는 모두 몇 개의 클립을 팔았습니까"
HINDI = "नतालिया ने अप्रैल में अपनी 48 सहेलियों को क्लिप बेचे और फिर मई में उसने आधे क्लिप बेचे"
GERMAN = "Die Straße ist 48 Meter lang, und die fünf flinken Füchse laufen sie an einem Tag zweimal hin und zurück"
KATAKANA = "カタカナのテストではナタリアがクリップを四十八個売りましたそして五月にその半分を売りました"


def _full_width(text):
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        *((text, unicodedata.normalize(form, text)) for text in (VIETNAMESE, KOREAN, HINDI) for form in ("NFC", "NFD", "NFKD")),
        (unicodedata.normalize("NFD", VIETNAMESE), VIETNAMESE),
        *((text, _full_width(text)) for text in (ENGLISH, MIXED, GERMAN)),
        (GERMAN, GERMAN.upper()),
        (GERMAN, GERMAN.replace("fl", "\ufb02").replace("fü", "f\u00adü")),
        (ENGLISH, ENGLISH.replace("twelve", "_twelve_").replace("cows", "co\u200bws")),
        (KATAKANA, KATAKANA.replace("カタカナ", "ｶﾀｶﾅ").replace("クリップ", "ｸﾘｯﾌﾟ")),
        (HINDI, HINDI.replace("क्ल", "क्\u200dल")),
    ],
)
def test_the_forms_in_which_unicode_writes_a_text_do_not_hide_it(tmp_path, text, hidden):
    _, found = _check(tmp_path, _items(tmp_path, [text]), [(f"a {hidden} b", "x")])
    assert [match["match"] for match in found] == ["exact"]


def test_signs_of_vowels_and_accents_make_no_words():
    assert _words("नतालिया ने क्लिप बेचे")[0] == ["नतालिया", "ने", "क्लिप", "बेचे"]
    assert len(_words("مُحَمَّدٌ رَسُولٌ")[0]) == 2


@pytest.mark.parametrize(
    "group",
    [
        {"documents": [{"title": "cows", "text": ENGLISH}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": ENGLISH}}]},
        {
            "completions": [
                {"text": json.dumps({"role": "assistant", "content": f"So:\n{ENGLISH}\n", "reasoning_content": "x"})}
            ]
        },
    ],
)
def test_what_stands_beside_a_prompt_and_in_a_completions_message_is_looked_at(group):
    index = contamination.ItemIndex([{"id": "one", "question": ENGLISH}])
    known = {"id": "g", "messages": [{"role": "user", "content": "Hi"}], "completions": [{"text": "Hello"}]}
    assert [match.kind for match in index.matches(known | group)] == ["exact"]
