"""What every reader that ``tools/fuzz.py`` feeds has in common; see ``tools/fuzz_readers.py``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from fuzz_inputs import edited_bytes, edited_tree, json_text

CONTEXT = 8


class Reader:
    """``corpus`` are good inputs, ``edit`` makes one hostile, ``path`` is where it is read from."""

    file = "input"
    patience = 5.0  # s for one input
    structured = 0.6  # of the inputs of a format that has structure, how many are damaged in it
    isolated = ""  # function of evonas below which a crash in C code costs no more than a child

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / self.file
        self.corpus: list[bytes] = []
        self.prepare()

    def prepare(self) -> None:
        raise NotImplementedError

    def edit(self, rng: Random, data: bytes, other: bytes) -> bytes:
        return edited_bytes(rng, data, other)

    def write(self, k: int, rng: Random) -> None:
        """Input number k, in its file."""
        self.path.write_bytes(self.edit(rng, self.corpus[k % len(self.corpus)], rng.choice(self.corpus)))

    def read(self, k: int) -> bool:
        raise NotImplementedError


class JsonReader(Reader):
    def edit(self, rng: Random, data: bytes, other: bytes) -> bytes:
        if rng.random() < self.structured:
            return json_text(edited_tree(rng, json.loads(data))).encode("utf-8", "surrogatepass")
        return edited_bytes(rng, data, other)
