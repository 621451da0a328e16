"""How many tokens a text has, where there is no tokenizer to ask."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

PIECES = re.compile(r" ?\w{1,12}|\w{1,12}| ?[^\w\s]+|\s+")


class GuessedTokenizer:
    """Splits where byte-level BPE does before it merges: a word (of at most 12 letters), signs, space are a token each.

    It offers what identifiers and layouts ask of a tokenizer. Tokens of items are added as to any: those counts are exact.
    """

    def __init__(self, tokens: int, *, starts: bool):
        self._tokens, self._starts = tokens, starts
        self.bos_token_id, self.eos_token_id = tokens - 2, tokens - 1
        self.pad_token_id: int | None = None
        self._pieces: dict[str, int] = {}
        self._added: dict[str, int] = {}

    def get_vocab(self) -> dict[str, int]:
        return {"<start>": self.bos_token_id, "<end>": self.eos_token_id, **self._added}

    def add_tokens(self, tokens: list[Any]) -> None:
        for token in tokens:
            self._added[token.content] = self._tokens + len(self._added)

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [self._added[token] for token in tokens]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [str(token) for token in ids]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        pieces = [self._pieces.setdefault(piece, len(self._pieces)) for piece in PIECES.findall(text)]
        start = [self.bos_token_id] if self._starts and add_special_tokens else []
        return start + [piece % self.bos_token_id for piece in pieces]

    def __call__(self, text: str | list[str], add_special_tokens: bool = True, **_: Any) -> Any:
        if isinstance(text, str):
            return SimpleNamespace(input_ids=self.encode(text, add_special_tokens))
        return SimpleNamespace(input_ids=[self.encode(each, add_special_tokens) for each in text])
