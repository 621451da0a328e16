"""Golden token ids, label positions, and that every batch says the same as a loop over its rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ilrec_cli.histories import Sequences, training_windows
from ilrec_cli.lm import prompts, tokenizer
from ilrec_cli.lm.examples import Catalogue, Examples, Layout, start_tokens

# Items 0..4; 0 and 3 share an identifier, 4 has a longer one.
TOKENS = [["<a_0>", "<b_1>"], ["<a_0>", "<b_0>"], ["<a_1>", "<b_1>"], ["<a_0>", "<b_1>"], ["<a_1>", "<b_0>", "<c_0>"]]
SEQUENCES = Sequences(np.array([2, 0, 1, 4, 3, 1, 1, 0]), np.array([0, 5, 8]))
TEMPLATE = prompts.Template("Had: ", ". Next:")


def toy(*, adds_bos: bool = True) -> Any:
    from tokenizers import AddedToken

    made = tokenizer.train(["Had: some. Next: one, two"], 300, adds_bos=adds_bos)
    made.add_tokens([AddedToken(token, normalized=False) for token in sorted({t for row in TOKENS for t in row})])
    return made


@pytest.fixture(params=[True, False], ids=["bos", "no-bos"])
def tok(request: pytest.FixtureRequest) -> Any:
    return toy(adds_bos=request.param)


def path(tok: Any, item: int) -> list[int]:
    return [*tok.convert_tokens_to_ids(TOKENS[item]), tok.eos_token_id]


def rows_of(batch: Any) -> list[list[int]]:
    return [row[mask.bool()].tolist() for row, mask in zip(batch.input_BS, batch.mask_BS, strict=True)]


def test_golden_ids() -> None:
    """The very numbers: special tokens first, then the 256 bytes, merges, item tokens in sorted order."""
    tok = toy()
    assert (tok.bos_token_id, tok.eos_token_id, tok.pad_token_id) == (0, 1, 2)
    first = tok.convert_tokens_to_ids("<a_0>")
    assert tok.convert_tokens_to_ids(["<a_0>", "<a_1>", "<b_0>", "<b_1>", "<c_0>"]) == list(range(first, first + 5))
    catalogue = Catalogue.build(TOKENS, tok)
    assert catalogue.token_ID.tolist() == [
        [first, first + 3, 1, -1], [first, first + 2, 1, -1], [first + 1, first + 3, 1, -1], [first, first + 3, 1, -1],
        [first + 1, first + 2, first + 4, 1],
    ]  # fmt: skip
    windows = training_windows(SEQUENCES, np.array([3, 1]), 20)
    batch = Examples(SEQUENCES, windows, catalogue, Layout.stream(tok)).batch(np.array([0]))
    a, b = first, first + 2
    assert batch.input_BS.tolist() == [[0, a + 1, b + 1, 1, a, b + 1, 1, a, b, 1]]
    assert batch.position_N.tolist() == [3, 4, 5, 6, 7, 8]
    assert batch.target_N.tolist() == [a, b + 1, 1, a, b, 1]
    assert batch.event_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.history_MT.tolist() == [[2, -1], [2, 0]]


def test_start_tokens() -> None:
    assert start_tokens(toy(adds_bos=True)) == [0]
    assert start_tokens(toy(adds_bos=False)) == []


def test_prompts_hold_text_and_item_ids_and_only_the_answer_is_supervised(tok: Any) -> None:
    catalogue = Catalogue.build(TOKENS, tok)
    layout = Layout.prompt(tok, TEMPLATE)
    user, end = np.array([0, 0, 1]), np.array([1, 4, 2])
    examples = Examples.per_target(SEQUENCES, user, end, 2, catalogue, layout)
    batch = examples.batch(np.array([0, 1, 2]))

    def encode(text: str) -> list[int]:
        return tok.encode(text, add_special_tokens=False)

    expected = []
    for history, target in (([2], 0), ([1, 4], 3), ([1, 1], 0)):
        shown = [path(tok, item)[:-1] for item in history]
        joined = [token for index, item in enumerate(shown) for token in (encode(", ") if index else []) + item]
        prompt = start_tokens(tok) + encode("Had: ") + joined + encode(". Next:")
        expected.append((prompt, path(tok, target)))
    assert rows_of(batch) == [prompt + answer for prompt, answer in expected]
    flat = batch.input_BS.flatten()
    assert (
        flat[batch.position_N + 1].tolist() == batch.target_N.tolist() == [t for _, answer in expected for t in answer]
    )
    width = batch.input_BS.shape[1]
    starts = [row * width + len(prompt) - 1 for row, (prompt, _) in enumerate(expected)]
    assert batch.position_N[batch.event_N.diff(prepend=torch.tensor([-1])) > 0].tolist() == starts
    assert batch.history_MT.tolist() == [[2, -1], [1, 4], [1, 1]]
    input_BS, mask_BS = layout.prompts(catalogue, np.array([[2, -1], [1, 4], [1, 1]]))
    assert [row[mask.bool()].tolist() for row, mask in zip(input_BS, mask_BS, strict=True)] == [
        prompt for prompt, _ in expected
    ]
    assert (mask_BS.diff(dim=1) >= 0).all(), "prompts are padded on the left"
    # Decoded, the prompt reads as written; items are single tokens, never spelled out.
    assert tok.decode(expected[1][0], skip_special_tokens=True) == "Had: <a_0><b_0>, <a_1><b_0><c_0>. Next:"


def test_streams_supervise_every_target_once_and_decode_from_the_same_layout(tok: Any) -> None:
    catalogue, layout = Catalogue.build(TOKENS, tok), Layout.stream(tok)
    windows = training_windows(SEQUENCES, np.array([5, 3]), 2)
    examples = Examples(SEQUENCES, windows, catalogue, layout)
    every = np.arange(len(examples))
    batch = examples.batch(every)
    lead = start_tokens(tok) or [tok.eos_token_id]
    expected = []
    for start, stop in zip(windows.start, windows.stop, strict=True):
        expected.append(lead + [token for item in SEQUENCES.items[start:stop] for token in path(tok, item)])
    assert rows_of(batch) == expected
    assert examples.targets(every) == len(batch.history_MT) == 6
    assert examples.supervised(every) == len(batch.target_N)
    assert batch.input_BS.flatten()[batch.position_N + 1].tolist() == batch.target_N.tolist()
    # The prompt for decoding is what stood before the target in training.
    row, start, stop = 0, windows.start[0], windows.stop[0]
    history = SEQUENCES.items[start : stop - 1]
    input_BS, _ = layout.prompts(catalogue, history[None])
    assert input_BS[0].tolist() == expected[row][: -len(path(tok, SEQUENCES.items[stop - 1]))]


def test_nodes_are_those_before_each_answer_token(tok: Any) -> None:
    catalogue = Catalogue.build(TOKENS, tok)
    windows = training_windows(SEQUENCES, np.array([5, 3]), 20)
    batch = Examples(SEQUENCES, windows, catalogue, Layout.stream(tok)).batch(np.arange(len(windows)))
    after = catalogue.trie.step(batch.node_N, batch.target_N)
    assert (after >= 0).all()
    for event in range(len(batch.history_MT)):
        own = batch.event_N == event
        assert batch.node_N[own][0] == 0
        assert after[own][:-1].tolist() == batch.node_N[own][1:].tolist()
        assert catalogue.trie.is_leaf(after[own][-1:]).all()


def test_the_tries_paths_are_what_the_collator_produces(tok: Any) -> None:
    catalogue = Catalogue.build(TOKENS, tok)
    for item in range(len(TOKENS)):
        assert catalogue.token_ID[item][: catalogue.length_I[item]].tolist() == path(tok, item)
    assert catalogue.trie.leaf_of(torch.tensor([0, 3])).unique().numel() == 1


def test_sizes_are_those_of_the_batches(tok: Any) -> None:
    catalogue = Catalogue.build(TOKENS, tok)
    user, end = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 4, 1, 2])
    stream = Examples(SEQUENCES, training_windows(SEQUENCES, np.array([3, 1]), 2), catalogue, Layout.stream(tok))
    prompts_ = Examples.per_target(SEQUENCES, user, end, 3, catalogue, Layout.prompt(tok, TEMPLATE))
    for examples in (stream, prompts_):
        size_E, supervised_E = examples.sizes()
        for row in range(len(examples)):
            batch = examples.batch(np.array([row]))
            assert (size_E[row], supervised_E[row]) == (batch.mask_BS.sum(), len(batch.target_N))
