"""Token ids in four bytes each, where a tuple of Python numbers takes some forty."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class TokenIds(Sequence[int]):
    """Immutable token ids: an int32 array that compares, hashes, slices and concatenates like a tuple of the same numbers.

    `numpy.asarray` gives the array itself. Its slices are views of the same memory, which may be a mapped file.
    """

    __slots__ = ("_array",)

    def __init__(self, ids: Sequence[int]) -> None:
        """Copies the ids, but for those that are TokenIds already.

        Raises:
            OverflowError: where a Python number has more than 32 bits.
        """
        self._array: Array
        if isinstance(ids, TokenIds):
            self._array = ids._array
        else:
            self._array = np.array(ids, dtype=np.int32)
            self._array.setflags(write=False)

    @classmethod
    def view(cls, array: Array) -> "TokenIds":
        """Of an int32 array, without a copy."""
        made = cls.__new__(cls)
        made._array = array
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._array, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[int]:
        return iter(self._array.tolist())

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "TokenIds": ...
    def __getitem__(self, index: int | slice) -> "int | TokenIds":
        return TokenIds.view(self._array[index]) if isinstance(index, slice) else int(self._array[index])

    def __add__(self, other: Sequence[int]) -> "TokenIds":
        return TokenIds((*self, *other))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            return np.array_equal(self._array, other._array)
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
