"""The instructions of templates.yaml: which tasks there are, in which forms, with which fields."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

FIELDS = ("item", "history", "titles", "title", "description", "preference", "query")
FIELD = re.compile(r"\{(\w+)\}")
FILE = Path(__file__).with_name("templates.yaml")


class Template(NamedTuple):
    """An instruction and what answers it, with fields in braces."""

    task: str
    form: str
    prompt: str
    answer: str

    @property
    def fields(self) -> frozenset[str]:
        """What an example must have for this template to fit it."""
        return frozenset(FIELD.findall(self.prompt + self.answer))


@cache
def every() -> dict[str, tuple[Template, ...]]:
    """Task -> its templates, in the order of the file."""
    tasks = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        task: tuple(
            Template(task, form, prompt, about["answer"])
            for form, about in forms.items()
            for prompt in about["prompts"]
        )
        for task, forms in tasks.items()
    }


def digest(texts: list[str]) -> str:
    """A short name of prompt texts: a run keeps it, so that two runs can be seen to have had the same."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
