"""Writes task_golden.json: python tests/lm/task_golden.py. Token ids and labels of one example in every template.

A toy tokenizer has a word or a sign a token, by a list of words kept in the file, so that no version of a library's
training decides an id. Items and texts are few: three items, a history of two of them. `titles` has the prompts in which
titles are the identifiers: those of candidate ranking, and BIGRec's; there an end of a line is a token too.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ilrec_cli.histories import Sequences
from ilrec_cli.lm import candidate_prompts, prompts, templates
from ilrec_cli.lm.candidates import CandidateExamples, CandidateLayout, CandidatePrompts
from ilrec_cli.lm.examples import Batch, Catalogue, Examples, Layout
from ilrec_cli.lm.rows import Runs
from ilrec_cli.lm.task_rows import TaskRows
from ilrec_cli.lm.task_tokens import Chosen, Texts
from ilrec_cli.lm.tasks import NAMES, Cases, parse
from ilrec_cli.lm.tokenizer import text_paths

FILE = Path(__file__).with_name("task_golden.json")
PATHS = [["<a_0>", "<b_1>"], ["<a_1>", "<b_0>"], ["<a_0>", "<b_0>"]]
TEXTS = Texts(["oak drum", "steel strings", "tuner"], ["a drum", "strings", "it tunes"], ["likes wood"], ["a gift"])
HISTORY, TARGET = np.array([0, 1]), 2
OFFERED = [1, 2, 0]
SIGNS = r"\n|\w+|[^\w\s]"


def words() -> list[str]:
    every = [template for found in templates.every().values() for template in found]
    pieces = [piece for each in every for piece in prompts.split(each.prompt, prompts.plain)[0]]
    texts = [*pieces, prompts.SEPARATOR, prompts.TITLES_SEPARATOR, *(text for column in TEXTS for text in column)]
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)})


def words_of_titles() -> list[str]:
    texts = [*candidate_prompts.all_text(), *prompts.all_text(as_input=True), *TEXTS.title_I]
    return sorted({word for text in texts for word in re.findall(SIGNS, text)})


def toy(known: list[str], *, lines: bool = False) -> Any:
    vocabulary = {word: place for place, word in enumerate(["<s>", "</s>", "<unk>", *known])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = (
        pre_tokenizers.Split(Regex(SIGNS), "removed", invert=True) if lines else pre_tokenizers.Whitespace()
    )
    tok = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tok.add_tokens([AddedToken(token, normalized=False) for token in sorted({t for path in PATHS for t in path})])
    return tok


def batch(tok: Any) -> tuple[Batch, tuple[templates.Template, ...]]:
    """One example of every template, in the order of the tasks."""
    one, two = np.array([1]), np.array([2])
    shown, said = Runs(HISTORY, np.array([0]), two), (np.array([0]), one)
    cases = [Cases(name, np.array([TARGET]), shown, said, said) for name in NAMES]
    rows, _ = TaskRows.build(
        tok, Catalogue.build(PATHS, tok), TEXTS, cases, parse(NAMES), form=prompts.PLAIN, max_length=999, seed=0
    )
    found = rows.book.templates
    count = len(found)
    chosen = Chosen(np.arange(count), np.full(count, TARGET), Runs(HISTORY, np.zeros(count, int), np.full(count, 2)),
                    np.zeros(count, int), np.zeros(count, int))  # fmt: skip
    task_E = np.array([NAMES.index(template.task) for template in found])
    return replace(rows, chosen=chosen, task_E=task_E, wanted=(count,)).batch(np.arange(count)), found


def examples(tok: Any) -> dict[str, dict[str, list[int]]]:
    """Template -> token ids, labels (-100 where nothing is learnt), trie nodes of the labels."""
    made, found = batch(tok)
    labels_BS = np.full(made.input_BS.shape, -100)
    row_N, column_N = np.divmod(made.position_N.numpy(), labels_BS.shape[1])
    labels_BS[row_N, column_N + 1] = made.target_N.numpy()
    return {
        f"{template.task}/{template.form}: {template.prompt}": {
            "ids": made.input_BS[row][made.mask_BS[row].bool()].tolist(),
            "labels": labels_BS[row][made.mask_BS[row].bool().numpy()].tolist(),
            "nodes": made.node_N[row_N == row].tolist(),
        }
        for row, template in enumerate(found)
    }


def examples_of_titles(tok: Any) -> dict[str, dict[str, list[int]]]:
    """The same of every template of candidate ranking, and of BIGRec's prompt."""
    items = Catalogue.of_paths(text_paths(list(TEXTS.title_I), tok), tok.eos_token_id)
    sequences, user, end = Sequences(np.array([*HISTORY, TARGET]), np.array([0, 3])), np.array([0]), np.array([2])
    found = {}
    for number, template in enumerate(candidate_prompts.TEMPLATES):
        made = CandidateExamples.per_target(
            sequences, (user, end), 20, CandidatePrompts(CandidateLayout.of(tok), items),
            lambda epoch: np.array([OFFERED]), 0,
        )  # fmt: skip
        vars(made)["templates"] = np.array([number])  # not drawn
        found[f"candidates: {template.after.strip()}"] = labelled(made.batch(np.array([0])))
    layout = Layout.prompt(tok, prompts.input_template(), prompts.TITLES_SEPARATOR)
    bigrec = Examples.per_target(sequences, user, end, 20, items, layout)
    return {**found, "input": labelled(bigrec.batch(np.array([0])))}


def labelled(made: Batch) -> dict[str, list[int]]:
    """Of a batch of one row."""
    labels = np.full(made.input_BS.shape[1], -100)
    labels[made.position_N.numpy() + 1] = made.target_N.numpy()
    assert made.mask_BS.all()
    return {"ids": made.input_BS[0].tolist(), "labels": labels.tolist(), "nodes": made.node_N.tolist()}


def write() -> None:
    known, of_titles = words(), words_of_titles()
    parts = [
        (known, examples(toy(known))),
        (of_titles, examples_of_titles(toy(of_titles, lines=True))),
    ]
    rows = [",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in each.items()) for _, each in parts]
    FILE.write_text(
        f'{{"words": {json.dumps(known)},\n"examples": {{\n{rows[0]}\n}},\n'
        f'"titles": {{"words": {json.dumps(of_titles)},\n"examples": {{\n{rows[1]}\n}}}}}}\n'
    )


if __name__ == "__main__":
    write()
