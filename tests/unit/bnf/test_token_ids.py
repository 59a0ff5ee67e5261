import pickle
from array import array

import numpy as np
import pytest

from bnf.data.groups import Completion, PromptGroup
from bnf.data.token_ids import TokenIds


def test_token_ids_compare_hash_slice_and_add_up_as_a_tuple() -> None:
    ids, plain = TokenIds([5, 7, 2, 9]), (5, 7, 2, 9)
    assert ids == plain and plain == ids and ids == TokenIds(plain)
    assert ids != (5, 7, 2) and ids != (5, 7, 2, 8) and ids != [5, 7, 2, 9] and ids != TokenIds([5])
    assert hash(ids) == hash(plain) and {ids, plain, TokenIds(plain)} == {plain}
    for part in (slice(1, 3), slice(-2, None), slice(None, -1), slice(9, 12), slice(None, None, -1)):
        assert ids[part] == plain[part] and isinstance(ids[part], TokenIds)
    assert ids[0] == 5 and ids[-1] == 9 and type(ids[0]) is int and all(type(token) is int for token in ids)
    with pytest.raises(IndexError):
        ids[4]
    assert ids[:2] + ids[2:] == plain and ids + plain == (*plain, *plain)
    assert len(ids) == 4 and bool(TokenIds(())) is False and repr(ids) == repr(plain)
    assert bytes(ids) == bytes(plain) and 7 in ids and ids.index(2) == 2


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda ids: array("i", ids), lambda ids: np.array(ids, dtype=np.int64)]
)
def test_any_sequence_of_numbers_makes_token_ids_of_their_own(kind) -> None:  # type: ignore[no-untyped-def]
    given = kind([3, 1, 2])
    ids = TokenIds(given)
    assert ids == (3, 1, 2) and np.asarray(ids).dtype == np.int32 and not np.asarray(ids).flags.writeable
    if not isinstance(given, tuple):
        given[0] = 8
        assert ids == (3, 1, 2)


def test_slices_and_arrays_are_views_of_the_same_memory() -> None:
    tokens = np.arange(10, dtype=np.int32)
    ids = TokenIds.view(tokens)
    assert np.shares_memory(np.asarray(ids), tokens) and np.shares_memory(np.asarray(ids[3:6]), tokens)
    assert np.shares_memory(np.asarray(TokenIds(ids)), tokens), "what is never changed needs no copy"
    assert np.asarray(ids, dtype=np.int64).dtype == np.int64


def test_an_id_of_more_than_32_bits_is_refused() -> None:
    with pytest.raises(OverflowError):
        TokenIds([1 << 31])


def test_groups_go_from_process_to_process() -> None:
    group = PromptGroup("ä", [1, 2], (Completion([3], 1, -0.5, "web"), Completion((4, 5), -1)), ((0, 1),))
    whole = np.arange(1_000_000, dtype=np.int32)
    part = PromptGroup("p", TokenIds.view(whole)[5:8], (Completion(TokenIds.view(whole)[8:9], 1),))
    assert pickle.loads(pickle.dumps(group)) == group and pickle.loads(pickle.dumps(part)) == part
    assert len(pickle.dumps(part)) < 2000, "a view takes its own tokens with it, and no others"
    assert hash(pickle.loads(pickle.dumps(group))) == hash(group)
