"""A safetensors file whose arrays are written as their values come, so that memory holds none of them."""

import json
import shutil
from array import array
from collections.abc import Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bnf.data.token_ids import Array

# safetensors' names of types, in the order in which its files have them, with the type codes of `array`.
_CODES = {"I64": "q", "F64": "d", "I32": "i", "I8": "b", "U8": "B"}
# The header's length is a multiple of this, for the arrays that follow it.
_ALIGNMENT = 8
_COPIED_BYTES = 1 << 20
_OFFSETS, _BYTES = "_offsets", "_bytes"


class Column(NamedTuple):
    """An array of a file: safetensors' name of its type, and how many numbers a row of it has where it isn't flat."""

    type: str
    width: int = 0


class ColumnsWriter:
    """Writes the file that `safetensors.numpy.save_file` gives for the same arrays. Until `finish` each column is a file of its own beside
    `path`.

    A column `NAME_offsets` says where each item of another one begins, and where the last ends. Strings are two columns: `NAME_bytes` has
    their bytes.
    """

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        self._path, self._columns = path, columns
        self._codes = {name: _CODES[column.type] for name, column in columns.items()}
        self._paths = {name: path.with_name(f"{path.name}.{name}.partial") for name in columns}
        self._files = {name: file.open("wb") for name, file in self._paths.items()}
        self._ends = {name: 0 for name in columns if name.endswith(_OFFSETS)}
        for name in self._ends:
            self.add(name, 0)

    def add(self, name: str, *values: float) -> None:
        """Appends numbers to a column."""
        self._files[name].write(array(self._codes[name], values))

    def add_bytes(self, name: str, data: bytes) -> None:
        """Appends numbers to a column, as the file will have them."""
        self._files[name].write(data)

    def add_lengths(self, name: str, *lengths: int) -> None:
        """Appends to `NAME_offsets` the ends of items of these lengths."""
        _, *ends = accumulate(lengths, initial=self._ends[name + _OFFSETS])
        if ends:
            self._ends[name + _OFFSETS] = ends[-1]
            self.add(name + _OFFSETS, *ends)

    def add_strings(self, name: str, *strings: str) -> None:
        """Appends strings to `NAME_bytes` and `NAME_offsets`."""
        encoded = [string.encode() for string in strings]
        self.add_bytes(name + _BYTES, b"".join(encoded))
        self.add_lengths(name, *map(len, encoded))

    def extend(self, arrays: Mapping[str, Array]) -> None:
        """Appends all columns of another file."""
        for name in self._columns:
            numbers = arrays[name]
            if name in self._ends:
                numbers = numbers[1:] + self._ends[name]
                self._ends[name] += int(arrays[name][-1])
            self.add_bytes(name, numbers.tobytes())

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def repeated(self, name: str) -> str | None:
        """The first string that is there a second time, or None; after `close`. Of strings only digests are in memory, 8 bytes each, and
        once more while they are sorted."""
        offsets = np.asarray(np.memmap(self._paths[name + _OFFSETS], dtype=np.int64, mode="r"))
        if offsets[-1] == 0:
            return "" if len(offsets) > 2 else None
        data = np.asarray(np.memmap(self._paths[name + _BYTES], dtype=np.uint8, mode="r"))
        digests = np.empty(len(offsets) - 1, dtype=np.int64)
        for place in range(len(digests)):
            digests[place] = hash(data[offsets[place] : offsets[place + 1]].tobytes())
        ordered = np.sort(digests)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        seen: set[bytes] = set()
        for place in np.flatnonzero(np.isin(digests, twice)) if len(twice) else ():
            string = data[offsets[place] : offsets[place + 1]].tobytes()
            if string in seen:
                return string.decode()
            seen.add(string)
        return None

    def finish(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes all columns into one file; after `close`."""
        order = list(_CODES)
        names = sorted(self._columns, key=lambda name: (order.index(self._columns[name].type), name))
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        start = 0
        for name in names:
            kind, width = self._columns[name]
            size = self._paths[name].stat().st_size
            number = size // array(_CODES[kind]).itemsize
            shape = [number // width, width] if width else [number]
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, start + size]}
            start += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        with path.open("wb") as whole:
            whole.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                with self._paths[name].open("rb") as column:
                    shutil.copyfileobj(column, whole, _COPIED_BYTES)

    def remove(self) -> None:
        """Removes the columns' files, also those that a full disk keeps from being closed in order."""
        for name, file in self._files.items():
            with suppress(OSError):
                file.close()
            self._paths[name].unlink(missing_ok=True)
