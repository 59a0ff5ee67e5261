"""Capitals: of what country is which city the capital? Knowledge that a small model has, to see whether an alignment costs any of it.

Dataset: countries and capitals listed in this file, without countries whose capital repeats their name or is disputed, and without
Georgia, which is a state's name too. Metric: the reply names the country's capital and no other one of the list.
Pattern: one user turn, greedy, 32 tokens.
"""

from __future__ import annotations

import random
import re
import unicodedata

from evaluation.fields import TEXT, fault, one_of, shown
from evaluation.types import Item, Message, Verdict

TITLE = "Capitals"
NUM_ITEMS = 72
MAX_NEW_TOKENS = 32
# Nothing is fetched: its items are the same everywhere.
MAKES_ITS_ITEMS = True

# The order of all countries is fixed for good: its first NUM_ITEMS are the held-out items, the rest is for training.
_SHUFFLE_SEED = 20251129
_CAPITALS = {
    "Afghanistan": "Kabul",
    "Albania": "Tirana",
    "Angola": "Luanda",
    "Argentina": "Buenos Aires",
    "Armenia": "Yerevan",
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Azerbaijan": "Baku",
    "Bahrain": "Manama",
    "Bangladesh": "Dhaka",
    "Barbados": "Bridgetown",
    "Belarus": "Minsk",
    "Belgium": "Brussels",
    "Belize": "Belmopan",
    "Bhutan": "Thimphu",
    "Bosnia and Herzegovina": "Sarajevo",
    "Botswana": "Gaborone",
    "Brunei": "Bandar Seri Begawan",
    "Bulgaria": "Sofia",
    "Burkina Faso": "Ouagadougou",
    "Cambodia": "Phnom Penh",
    "Cameroon": "Yaounde",
    "Canada": "Ottawa",
    "Cape Verde": "Praia",
    "Chad": "N'Djamena",
    "Chile": "Santiago",
    "China": "Beijing",
    "Colombia": "Bogota",
    "Costa Rica": "San Jose",
    "Croatia": "Zagreb",
    "Cuba": "Havana",
    "Cyprus": "Nicosia",
    "Denmark": "Copenhagen",
    "Dominica": "Roseau",
    "East Timor": "Dili",
    "Ecuador": "Quito",
    "Egypt": "Cairo",
    "Eritrea": "Asmara",
    "Estonia": "Tallinn",
    "Ethiopia": "Addis Ababa",
    "Fiji": "Suva",
    "Finland": "Helsinki",
    "France": "Paris",
    "Gabon": "Libreville",
    "Germany": "Berlin",
    "Ghana": "Accra",
    "Greece": "Athens",
    "Guinea": "Conakry",
    "Guyana": "Georgetown",
    "Haiti": "Port-au-Prince",
    "Honduras": "Tegucigalpa",
    "Hungary": "Budapest",
    "Iceland": "Reykjavik",
    "India": "New Delhi",
    "Indonesia": "Jakarta",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Jamaica": "Kingston",
    "Japan": "Tokyo",
    "Jordan": "Amman",
    "Kazakhstan": "Astana",
    "Kenya": "Nairobi",
    "Kyrgyzstan": "Bishkek",
    "Laos": "Vientiane",
    "Latvia": "Riga",
    "Lebanon": "Beirut",
    "Lesotho": "Maseru",
    "Liberia": "Monrovia",
    "Libya": "Tripoli",
    "Liechtenstein": "Vaduz",
    "Lithuania": "Vilnius",
    "Madagascar": "Antananarivo",
    "Malawi": "Lilongwe",
    "Mali": "Bamako",
    "Malta": "Valletta",
    "Mauritania": "Nouakchott",
    "Mauritius": "Port Louis",
    "Moldova": "Chisinau",
    "Mongolia": "Ulaanbaatar",
    "Montenegro": "Podgorica",
    "Morocco": "Rabat",
    "Mozambique": "Maputo",
    "Namibia": "Windhoek",
    "Nepal": "Kathmandu",
    "New Zealand": "Wellington",
    "Nicaragua": "Managua",
    "Niger": "Niamey",
    "Nigeria": "Abuja",
    "North Korea": "Pyongyang",
    "North Macedonia": "Skopje",
    "Norway": "Oslo",
    "Oman": "Muscat",
    "Pakistan": "Islamabad",
    "Papua New Guinea": "Port Moresby",
    "Paraguay": "Asuncion",
    "Peru": "Lima",
    "Philippines": "Manila",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Qatar": "Doha",
    "Romania": "Bucharest",
    "Russia": "Moscow",
    "Rwanda": "Kigali",
    "Samoa": "Apia",
    "Saudi Arabia": "Riyadh",
    "Senegal": "Dakar",
    "Serbia": "Belgrade",
    "Sierra Leone": "Freetown",
    "Slovakia": "Bratislava",
    "Slovenia": "Ljubljana",
    "Somalia": "Mogadishu",
    "South Korea": "Seoul",
    "South Sudan": "Juba",
    "Spain": "Madrid",
    "Sudan": "Khartoum",
    "Suriname": "Paramaribo",
    "Sweden": "Stockholm",
    "Switzerland": "Bern",
    "Syria": "Damascus",
    "Tajikistan": "Dushanbe",
    "Thailand": "Bangkok",
    "Togo": "Lome",
    "Tonga": "Nuku'alofa",
    "Trinidad and Tobago": "Port of Spain",
    "Turkey": "Ankara",
    "Turkmenistan": "Ashgabat",
    "Uganda": "Kampala",
    "Ukraine": "Kyiv",
    "United Arab Emirates": "Abu Dhabi",
    "United Kingdom": "London",
    "United States": "Washington",
    "Uruguay": "Montevideo",
    "Uzbekistan": "Tashkent",
    "Vanuatu": "Port Vila",
    "Venezuela": "Caracas",
    "Vietnam": "Hanoi",
    "Yemen": "Sanaa",
    "Zambia": "Lusaka",
    "Zimbabwe": "Harare",
}
# Other spellings that are as right.
_SPELLINGS = {
    "Astana": ["Nur-Sultan"],
    "Kyiv": ["Kiev"],
    "N'Djamena": ["Ndjamena"],
    "Nuku'alofa": ["Nukualofa"],
    "Sanaa": ["Sana'a"],
    "Ulaanbaatar": ["Ulan Bator"],
}


def load(source: str | None, limit: int | None) -> list[Item]:
    """The held-out items. The project lists them itself, so there is one source: None and "sample" are the same.

    Raises:
        ValueError: where the source is a file.
    """
    if source not in (None, "sample"):
        raise ValueError(f"capitals.source must be left out, got {source!r}; the benchmark lists its own items")
    return _items("test", _countries()[:NUM_ITEMS])[:limit]


def train_items(limit: int) -> list[Item]:
    """The first `limit` items for sampling; no country is that of a held-out one.

    Raises:
        ValueError: where there are not so many countries.
    """
    available = _countries()[NUM_ITEMS:]
    if limit > len(available):
        raise ValueError(f"sample.num_prompts must be at most {len(available)} for capitals, got {limit}; ask for fewer")
    return _items("train", available[:limit])


def item_fault(item: Item) -> str | None:
    """As the contract has it: a country of the list, with its capital."""
    if wrong := fault(item, {"country": TEXT}):
        return wrong
    if item["country"] not in _CAPITALS:
        return f"have a country of the list, got {shown(item['country'])}"
    return fault(item, {"answer": one_of(_CAPITALS[item["country"]])})


def messages(item: Item) -> list[Message]:
    """The question as the user's turn: the chat template's own system text stays."""
    return [{"role": "user", "content": f"What is the capital of {item['country']}? Reply with only the name of the city."}]


def score(item: Item, completion: str, finish_reason: str) -> Verdict:
    """Right is the country's capital and no other of the list; words around it, case and accents don't matter."""
    named = _named(completion)
    if not completion.strip():
        return Verdict("no_answer", None, "none")
    if not named:
        # A city that isn't of the list, or none: in either case it isn't known.
        return Verdict("wrong", None, "no_capital")
    answer = ", ".join(named[:2])
    if len(named) > 1:
        return Verdict("wrong", answer, "several_capitals")
    return Verdict("correct" if named == [item["answer"]] else "wrong", answer, "only_capital")


def _named(text: str) -> list[str]:
    """The capitals of the list that a text names, in the list's order."""
    words = f" {_plain(text)} "
    return [
        capital
        for capital in _CAPITALS.values()
        if any(f" {_plain(name)} " in words for name in (capital, *_SPELLINGS.get(capital, ())))
    ]


def _plain(text: str) -> str:
    """Words in lower case without accents; an apostrophe belongs to its word, the possessive 's does not."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(letter))
    return " ".join(re.sub(r"'s$", "", word) for word in re.findall(r"\w+(?:'\w+)*", letters.replace("’", "'")))


def _items(split: str, countries: list[str]) -> list[Item]:
    return [
        {"id": f"capitals-{split}-{number}", "country": country, "answer": _CAPITALS[country]}
        for number, country in enumerate(countries)
    ]


def _countries() -> list[str]:
    """All countries, in an order that is fixed for good."""
    countries = sorted(_CAPITALS)
    random.Random(_SHUFFLE_SEED).shuffle(countries)
    return countries
