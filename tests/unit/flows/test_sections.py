"""A section's keys are those that its stage reads."""

from dataclasses import dataclass, field

import pytest
from pydantic import Field

from flows.recipe.section import Section, read_as


@dataclass(frozen=True)
class Config:
    limit: int | None = 3
    names: list[str] = field(default_factory=list)
    seed: int = 0


def test_what_is_the_same_in_both_is_a_section():
    @read_as(Config, unread=("num_proc",))
    class Same(Section):
        limit: int | None = 3
        names: list[str] = Field(default_factory=list)
        num_proc: int = 1

    assert Same().limit == 3


@pytest.mark.parametrize(
    ("annotations", "defaults", "unread", "message"),
    [
        ({"limit": int | None}, {"limit": 4}, (), "Config.limit must have the default of the section's key, got 3"),
        ({"limit": int}, {"limit": 3}, (), "Config.limit must be of the type of the section's key"),
        ({"limit": int | None}, {}, (), "Config.limit must have the default of the section's key"),
        ({"limt": int}, {"limt": 3}, (), "Mine.limt must be read by Config or named as unread"),
        ({"limit": int | None}, {"limit": 3}, ("limit",), "Mine.limit must be read by Config or named as unread"),
    ],
)
def test_what_differs_is_refused_where_it_is_defined(annotations, defaults, unread, message):
    with pytest.raises(TypeError, match=message):
        read_as(Config, unread=unread)(type("Mine", (Section,), {"__annotations__": annotations, **defaults}))
