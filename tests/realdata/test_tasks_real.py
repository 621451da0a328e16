"""The trie's paths are what training makes of every item, on real identifiers and real titles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers_of_kinds import KINDS, a_tokenizer

from ilrec_cli.lm import prompts
from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.lm.rows import Runs
from ilrec_cli.lm.task_rows import TaskRows
from ilrec_cli.lm.task_tokens import Texts
from ilrec_cli.lm.tasks import Cases, parse
from ilrec_cli.lm.tokenizer import text_paths

pytestmark = pytest.mark.realdata
SHARED = Path(os.environ.get("ILREC_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def industrial(kind: str) -> tuple[Any, Catalogue, Texts]:
    """Published codes as identifiers, with titles and descriptions."""
    stem = SHARED / "industrial" / "Industrial_and_Scientific"
    index = json.loads(stem.with_suffix(".index.json").read_text())
    text = json.loads(stem.with_suffix(".item.json").read_text())
    names = sorted(index, key=int)
    tok = a_tokenizer(kind, {token for path in index.values() for token in path})
    titles, descriptions = (
        [str(text.get(name, {}).get(field) or "")[:300] for name in names] for field in ("title", "description")
    )
    return tok, Catalogue.build([index[name] for name in names], tok), Texts(titles, descriptions)


def lastfm(kind: str) -> tuple[Any, Catalogue, Texts]:
    """Artists' names as identifiers: some begin with others, and many are of no ASCII letter."""
    rows = [
        row
        for split in ("val", "test")
        for row in json.loads((SHARED / "lastfm-candidates" / f"lastfm-{split}.json").read_text())
    ]
    names = sorted({name for row in rows for name in (*row["historyList"].split("::"), *row["itemList"])} - {""})
    tok = a_tokenizer(kind, [])
    return tok, Catalogue.of_paths(text_paths(names, tok), tok.eos_token_id), Texts(names, [""] * len(names))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("made", [industrial, lastfm], ids=["industrial", "lastfm-candidates"])
def test_paths_of_the_trie_are_what_the_collator_makes(made: Any, kind: str) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no research data at {SHARED}")
    tok, catalogue, texts = made(kind)
    items = np.arange(len(catalogue.length_I))
    shown = Runs(items, np.zeros_like(items), np.ones_like(items))
    names = ["next_item"] + (["text_to_item", "fusion"] if made is industrial else [])
    cases = [
        Cases.of_targets("next_item", items, shown),
        Cases.of_items("text_to_item", items),
        Cases.of_targets("fusion", items, shown),
    ]
    rows, notes = TaskRows.build(
        tok, catalogue, texts, cases[: len(names)], parse(names), form=prompts.PLAIN, max_length=4096, seed=0
    )
    answers = np.flatnonzero([rows.book.templates[place].answer == "{item}" for place in rows.chosen.template_B])
    assert set(rows.chosen.item_B[answers].tolist()) == set(items.tolist()), notes
    for start in range(0, len(answers), 2048):
        part = answers[start : start + 2048]
        batch = rows.batch(part)
        width = batch.input_BS.shape[1]
        row_N, column_N = np.divmod(batch.position_N.numpy(), width)
        node_B = torch.zeros(len(part), dtype=torch.long)
        for place in range(int(np.bincount(row_N).max())):
            first = np.concatenate([[0], np.cumsum(np.bincount(row_N))])[:-1]
            has = np.flatnonzero(np.bincount(row_N) > place)
            at = first[has] + place
            rewarded = batch.node_N[at] >= 0
            assert (batch.node_N[at][rewarded] == node_B[has][rewarded]).all()
            token = batch.input_BS[row_N[at], column_N[at] + 1]
            assert (token == batch.target_N[at]).all()
            node_B[has] = catalogue.trie.step(node_B[has], token)
        assert (node_B == catalogue.trie.leaf_of(torch.from_numpy(rows.chosen.item_B[part]))).all()
