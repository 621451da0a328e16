"""The text around an instruction, and prompts as pieces of text with fields between them.

A prompt is a preamble, an instruction, and the place where the answer begins; or an instruct model's own chat template
around the instruction. Items enter as token ids between the texts; nothing is re-tokenised, so the answer's first token
is always its own. Wording is ours; fields and structure follow LC-Rec.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ilrec_cli.errors import UserError
from ilrec_cli.lm import templates
from ilrec_cli.lm.templates import FIELD

SEPARATOR = ", "
TITLES_SEPARATOR = '", "'  # a template has the outer quotes
PREAMBLE = "An instruction follows. Give the answer that it asks for.\n\n"
INSTRUCTION = "Recommend the item that this user will choose next."
INPUT = 'The user chose these items, the oldest first: "{history}"'
_MARK = "\ue000"  # of private use: in no text
# Chat templates can put today's date into a prompt (Llama-3.2's does). Tomorrow's prompts must be those of today: this day,
# which Llama's templates name where there is no clock, stands for all.
_NO_CLOCK = "{%- macro strftime_now(form) -%}26 Jul 2024{%- endmacro %}"

Wrap = Callable[[str], str]  # an instruction -> the whole prompt


class Template(NamedTuple):
    """Text before the history and after it; `start`: the tokenizer's start tokens come first."""

    before: str
    after: str
    start: bool = True


class Format(NamedTuple):
    """How an instruction becomes a prompt."""

    wrap: Wrap
    start: bool  # the tokenizer's start tokens come first; a chat template has its own


def plain(instruction: str) -> str:
    """The instruction format of models that are no chat models."""
    return f"{PREAMBLE}### Instruction:\n{instruction}\n\n### Response:"


PLAIN = Format(plain, True)


def chat(tokenizer: Any) -> Format:
    """One turn of the user in the tokenizer's own chat template, up to where the assistant speaks."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "--chat: the tokenizer of this backbone has no chat template; choose an instruct model, or leave --chat out"
        )

    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _NO_CLOCK + template

    def wrap(instruction: str) -> str:
        turn = [{"role": "user", "content": instruction}]
        return str(
            tokenizer.apply_chat_template(turn, chat_template=template, tokenize=False, add_generation_prompt=True)
        )

    return Format(wrap, False)


def chosen(tokenizer: Any, *, as_chat: bool) -> Format:
    return chat(tokenizer) if as_chat else PLAIN


def split(instruction: str, wrap: Wrap) -> tuple[list[str], list[str]]:
    """(pieces, fields) of a whole prompt: a field stands after every piece but the last."""
    fields = FIELD.findall(instruction)
    marked = wrap(FIELD.sub(_MARK, instruction))
    pieces = marked.split(_MARK)
    if len(pieces) != len(fields) + 1:
        raise UserError("--chat: the chat template of this backbone repeats or drops what the user says")
    return pieces, fields


def next_item(form: Format = PLAIN) -> tuple[Template, ...]:
    """The prompts of the next-item task, of which the first is what evaluation uses unless told otherwise."""
    found = (split(template.prompt, form.wrap)[0] for template in templates.every()["next_item"])
    return tuple(Template(before, after, form.start) for before, after in found)


NEXT_ITEM = next_item()


def with_input(form: Format = PLAIN) -> str:
    """The next-item prompt in BIGRec's structure: what to do, then the history in a block of its own, items in quotes."""
    if form is PLAIN:
        return f"{PREAMBLE}### Instruction:\n{INSTRUCTION}\n\n### Input:\n{INPUT}\n\n### Response:\n"
    return form.wrap(f"{INSTRUCTION}\n\n{INPUT}")


def input_template(form: Format = PLAIN) -> Template:
    """The same as text before and after the history; `TITLES_SEPARATOR` stands between its items."""
    before, after = split(with_input(form), str)[0]
    return Template(before, after, form.start)


def all_text(tasks: tuple[str, ...] = (), *, as_input: bool = False) -> list[str]:
    """Every piece of prompt text, for tokenizers trained on the spot; of the first prompt alone without any task."""
    if as_input:
        return [*split(with_input(), str)[0], TITLES_SEPARATOR]
    if not tasks:
        return [NEXT_ITEM[0].before, NEXT_ITEM[0].after, SEPARATOR]
    prompts = [template.prompt for task in tasks for template in templates.every()[task]]
    return [piece for prompt in prompts for piece in split(prompt, plain)[0]] + [SEPARATOR, TITLES_SEPARATOR]
