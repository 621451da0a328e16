"""Prompts of candidate ranking token by token; rewards among candidates against a trie per row; answers against names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.histories import Sequences
from ilrec_cli.lm import answers, tokenizer
from ilrec_cli.lm.candidate_prompts import TEMPLATES, all_text
from ilrec_cli.lm.candidate_rank import matched
from ilrec_cli.lm.candidate_rewards import candidate_rewards
from ilrec_cli.lm.candidates import CandidateExamples, CandidateLayout, CandidatePrompts
from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.trie import ItemTrie

NAMES = ["Mad Season", "Season", "Peter, Paul & Mary", "Júpiter Maçã", "Ke$ha", "Glee Cast", "Hope", "K's Choice"]


@pytest.fixture(scope="module", params=[True, False], ids=["start token", "none"])
def world(request: pytest.FixtureRequest) -> tuple[Any, Catalogue]:
    """A tokenizer, with a start token as Llama's or without as Qwen's, and the catalogue of NAMES in it."""
    tok = tokenizer.train(all_text() + NAMES, 600, adds_bos=request.param)
    return tok, Catalogue.of_paths(tokenizer.text_paths(NAMES, tok), tok.eos_token_id)


def examples_of(world: tuple[Any, Catalogue], draw: Any = None, seed: int = 0) -> CandidateExamples:
    """Two users: items 0 1 2 then 3, and 4 then 5."""
    tok, catalogue = world
    sequences = Sequences(np.array([0, 1, 2, 3, 4, 5]), np.array([0, 4, 6]))
    fixed = np.array([[1, 3, 6, 7], [5, 0, 1, 2]])
    return CandidateExamples.per_target(
        sequences, (np.array([0, 1]), np.array([3, 1])), 2, CandidatePrompts(CandidateLayout.of(tok), catalogue),
        draw or (lambda epoch: fixed), seed,
    )  # fmt: skip


def whole(template: int) -> tuple[str, str, str]:
    """The text of a prompt before the history, between it and the candidates, and after these."""
    before, between, after = TEMPLATES[template]
    lead = "An instruction follows. Give the answer that it asks for.\n\n### Instruction:\n"
    return lead + before, between, after + "\n\n### Response:"


def spelled(
    tok: Any, template: int, history: list[str], candidates: list[str], answer: str
) -> tuple[list[int], list[int]]:
    """(prompt, response) made piece by piece with the tokenizer alone."""
    before, between, after = whole(template)

    def ids(text: str) -> list[int]:
        return list(tok(text, add_special_tokens=False).input_ids)

    def listed(names: list[str]) -> list[int]:
        return [token for place, name in enumerate(names) for token in (ids("\n") if place else []) + ids(name)]

    start = [tok.bos_token_id] if tok("a").input_ids[0] == tok.bos_token_id else []
    prompt = start + ids(before) + listed(history) + ids(between) + listed(candidates) + ids(after)
    return prompt, [*ids(answer), tok.eos_token_id]


def test_there_are_ten_templates_and_more_all_different() -> None:
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 10
    for before, between, after in TEMPLATES:
        assert before.endswith("\n")
        assert between.endswith("\n")
        assert after.startswith("\n\n")
        assert len({before, between, after}) == 3


@pytest.mark.parametrize("epoch", range(4))
def test_a_batch_holds_the_golden_tokens_and_supervises_the_answer_alone(
    world: tuple[Any, Catalogue], epoch: int
) -> None:
    tok, catalogue = world
    examples = examples_of(world).at(epoch)
    batch = examples.batch(np.array([0, 1]))
    rows = [(NAMES[1:3], [NAMES[item] for item in (1, 3, 6, 7)], NAMES[3]), ([NAMES[4]], [NAMES[item] for item in (5, 0, 1, 2)], NAMES[5])]  # fmt: skip
    place = 0
    for row, (history, candidates, answer) in enumerate(rows):
        prompt, response = spelled(tok, int(examples.templates[row]), history, candidates, answer)
        whole = prompt + response
        assert batch.input_BS[row, : len(whole)].tolist() == whole
        assert batch.mask_BS[row].sum() == len(whole) == examples.lengths()[row]
        for step, token in enumerate(response):
            assert batch.target_N[place] == token
            assert batch.position_N[place] == row * batch.input_BS.shape[1] + len(prompt) + step - 1
            assert batch.event_N[place] == row
            assert catalogue.trie.step(batch.node_N[place : place + 1], batch.target_N[place : place + 1]) >= 0
            place += 1
    assert place == len(batch.target_N) == examples.supervised(np.array([0, 1]))
    assert batch.history_MT.tolist() == [[1, 2], [4, -1]]
    assert batch.candidate_MC is not None
    assert batch.candidate_MC.tolist() == [[1, 3, 6, 7], [5, 0, 1, 2]]


def test_every_template_is_spelled_as_written_for_decoding_too(world: tuple[Any, Catalogue]) -> None:
    tok, catalogue = world
    layout = CandidateLayout.of(tok)
    prompts = CandidatePrompts(CandidateLayout.from_dict(layout.as_dict()), catalogue)
    for template in range(len(TEMPLATES)):
        input_BS, mask_BS = prompts.padded(np.array([[0, 2], [4, -1]]), np.array([[3, 5], [1, 0]]), template)
        for row, (history, candidates) in enumerate((((0, 2), (3, 5)), ((4,), (1, 0)))):
            prompt, _ = spelled(tok, template, [NAMES[i] for i in history], [NAMES[i] for i in candidates], "")
            assert input_BS[row][mask_BS[row].bool()].tolist() == prompt
            assert mask_BS[row, -1]
        text = tok.decode(input_BS[0][mask_BS[0].bool()], skip_special_tokens=True)
        before, between, after = whole(template)
        assert text == f"{before}Mad Season\nPeter, Paul & Mary{between}Júpiter Maçã\nGlee Cast{after}"


def test_epochs_draw_their_own_templates_and_candidates_by_the_seed(world: tuple[Any, Catalogue]) -> None:
    def draw(epoch: int) -> np.ndarray:
        return np.random.default_rng(epoch).permuted(np.tile(np.arange(8), (2, 1)), axis=1)

    epochs = [examples_of(world, draw).at(epoch) for epoch in range(12)]
    assert len({tuple(each.templates) for each in epochs}) > 6
    assert len({each.candidates.tobytes() for each in epochs}) == 12
    again = examples_of(world, draw).at(5).batch(np.array([1, 0]))
    for mine, other in zip(epochs[5].batch(np.array([1, 0])), again, strict=True):
        assert mine is other is None or torch.equal(mine, other)
    assert any(
        (examples_of(world, draw, seed=1).at(epoch).templates != epochs[epoch].templates).any() for epoch in range(3)
    )


def rewards_by_tries(scores: np.ndarray, paths: list[list[list[int]]], targets: list[int]) -> list[dict[int, float]]:
    """Eq. 10 for every token of every target, with a trie of the row's candidates and R their softmax, in float64."""
    found = []
    for row, target in enumerate(targets):
        trie = ItemTrie.build(paths[row])
        weight = [math.exp(score - max(scores[row])) for score in scores[row]]
        prob = np.array([[each / math.fsum(weight) for each in weight]])
        node = torch.zeros(1, dtype=torch.long)
        for token in paths[row][target]:
            tokens, masses = trie.child_mass(node, torch.zeros(1, dtype=torch.long), torch.from_numpy(prob))
            found.append({int(v): float(r) for v, r in zip(tokens[0], masses[0], strict=True) if v >= 0})
            node = trie.step(node, torch.tensor([token]))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.5, 4.0, 12.0]))
def test_rewards_are_those_of_a_trie_of_each_rows_candidates(seed: int, rows: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    paths = [brute_force_paths(rng, 20, range(3, 8), 4, 1) for _ in range(rows)]
    scores_MC, targets = rng.normal(0, spread, size=(rows, 20)), rng.integers(20, size=rows).tolist()
    longest = max(len(path) for row in paths for path in row)
    path_MCD = torch.tensor([[path + [-1] * (longest - len(path)) for path in row] for row in paths])
    answers_ = [paths[row][target] for row, target in enumerate(targets)]
    target_N = torch.tensor([token for path in answers_ for token in path])
    event_N = torch.tensor([row for row, path in enumerate(answers_) for _ in path])
    found = candidate_rewards(torch.from_numpy(scores_MC), path_MCD, target_N, event_N)
    assert found.value_NC is not None
    expected = rewards_by_tries(scores_MC, paths, targets)
    for tokens, values, wanted, target in zip(*found, expected, target_N.tolist(), strict=True):
        mine = {int(v): float(r) for v, r in zip(tokens, values, strict=True) if v >= 0}
        assert mine.keys() == wanted.keys()
        assert target in mine
        assert (tokens >= 0).sum() == len(mine), "every token once"
        for token, value in mine.items():
            assert value == pytest.approx(wanted[token], rel=1e-5, abs=1e-7)
    allowed = candidate_rewards(None, path_MCD, target_N, event_N)
    assert torch.equal(allowed.token_NC, found.token_NC)
    assert allowed.value_NC is None


def test_a_prefix_without_mass_still_shares_by_scores() -> None:
    path_MCD = torch.tensor([[[3, 4, 1], [3, 5, 1], [6, 1, -1]]])
    found = candidate_rewards(
        torch.tensor([[0.0, 1.0, 5000.0]]), path_MCD, torch.tensor([3, 4, 1]), torch.tensor([0, 0, 0])
    )
    assert found.value_NC is not None
    assert found.value_NC[0].tolist() == [0.0, 0.0, 1.0]
    assert found.value_NC[1, :2].tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])


def test_names_inside_one_another_are_told_apart_and_counted_apart() -> None:
    candidates = np.array([[0, 1, 2, 5]] * 6)
    texts = ["Season", '"mad  season"', "It is Glee Cast.", "Season Glee Cast", "", "Peter, Paul & Mary\n"]
    found = matched(texts, candidates, NAMES)
    assert found.item_Bk.tolist() == [[1, -1, -1, -1], [0, -1, -1, -1], [-1] * 4, [-1] * 4, [-1] * 4, [2, -1, -1, -1]]
    assert found.contained_B.tolist() == [1, -1, 5, -1, -1, 2], "S-DPO's rule: letter by letter, one name alone"


def test_one_name_of_two_candidates_is_both_and_two_spellings_are_none() -> None:
    assert answers.named("Hope", ["Hope", "Hope", "Anna"]) == [0, 1]
    assert answers.named("hope", ["Hope", "HOPE", "Anna"]) == [], "who of the two is meant?"
    assert answers.plain("“\uff2aúpiter Maçã”") == "júpiter maçã"
