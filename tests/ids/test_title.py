"""Titles as identifiers: what they become, and that histories, answers, trie and decoding use the very same ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import TINY_LM, Finished, llama

from ilrec_cli import artifacts
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, training_windows
from ilrec_cli.ids import title
from ilrec_cli.ids.title.assign import assign
from ilrec_cli.lm import prompts, tokenizer
from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.examples import Catalogue, Examples, Layout

Run = Callable[..., Finished]
# One is a prefix of another, in text and in tokens; two are equal; one spells the end token.
TITLES = ["Tent", "Tent for two", "傘 ☂ é", "Tent", "A </s> in a title", "e\u0301", "é"]


def catalogue(tok: Any, titles: list[str] = TITLES) -> Catalogue:
    return Catalogue.of_paths(tokenizer.text_paths(titles, tok), tok.eos_token_id)


@pytest.fixture(params=[True, False], ids=["bos", "no-bos"])
def tok(request: pytest.FixtureRequest) -> Any:
    return tokenizer.train(["Tent for two, Tent for three. Next:"], 300, adds_bos=request.param)


def items(titles: list[str | None]) -> pa.Table:
    return pa.table({"raw_id": [f"raw-{n}" for n in range(len(titles))], "title": pa.array(titles, pa.string())})


def test_equal_titles_share_a_path_and_a_code() -> None:
    found = assign(items(["Tent", " Kettle ", "Tent", "tent"]), title.Config())
    assert found.tokens.to_pylist() == [["Tent"], ["Kettle"], ["Tent"], ["tent"]]
    assert found.codes.to_pylist() == [[0], [1], [0], [2]]
    assert found.text


def test_items_without_a_title_are_counted_or_named_by_their_id() -> None:
    some: list[str | None] = ["Tent", None, "  ", ""]
    with pytest.raises(UserError, match="3 of 4 items have no title, the first is 'raw-1'"):
        assign(items(some), title.Config())
    found = assign(items(some), title.Config(missing="raw_id"))
    assert found.tokens.to_pylist() == [["Tent"], ["raw-1"], ["raw-2"], ["raw-3"]]
    assert found.notes["items_without_title"] == 3


def test_the_full_stop_of_lc_recs_files_is_no_part_of_a_title() -> None:
    stopped: list[str | None] = ["Tent.", "Mr. Kettle Co..", "Tent for 2 ."]
    found = assign(items(stopped), title.Config())
    assert found.tokens.to_pylist() == [["Tent"], ["Mr. Kettle Co."], ["Tent for 2"]]
    assert found.notes["full_stops_left_out"]
    kept = assign(items(stopped), title.Config(full_stop="keep"))
    assert kept.tokens.to_pylist() == [["Tent."], ["Mr. Kettle Co.."], ["Tent for 2 ."]]
    some = assign(items([*stopped, "Lamp"]), title.Config())
    assert some.tokens.to_pylist()[0] == ["Tent."], "one title without says that the others' are their own"
    assert "full_stops_left_out" not in some.notes


def test_paths_are_the_tokenizers_ids_of_each_title_alone(tok: Any) -> None:
    made = catalogue(tok)
    for item, text in enumerate(TITLES):
        path = made.token_ID[item, : made.length_I[item]].tolist()
        assert path[-1] == tok.eos_token_id
        assert tok.eos_token_id not in path[:-1]
        assert tok.bos_token_id not in path
        assert tok.decode(path[:-1]) == text, "nothing is lost: composed and decomposed letters stay apart"
    assert made.trie.leaf_of(torch.tensor([0])) == made.trie.leaf_of(torch.tensor([3])), "equal titles share a leaf"
    assert len(set(made.trie.leaf_of(torch.arange(len(TITLES))).tolist())) == len(TITLES) - 1


def test_a_title_that_begins_another_ends_at_its_end_token(tok: Any) -> None:
    made = catalogue(tok)
    short, long = (made.token_ID[item, : made.length_I[item]].tolist() for item in (0, 1))
    assert long[: len(short) - 1] == short[:-1]
    node = made.node_ID[0, len(short) - 1]
    children = made.trie.children(torch.tensor([node]))[0][0].tolist()
    assert {tok.eos_token_id, long[len(short) - 1]} <= set(children)


def test_text_that_comes_to_nothing_is_refused() -> None:
    from tokenizers import normalizers

    made = tokenizer.train(["Tent"], 300, adds_bos=True)
    made.backend_tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(UserError, match="makes no token at all of the identifier '  '"):
        tokenizer.text_paths(["Tent", "  "], made)


@pytest.mark.parametrize("targets", ["all", "last"])
def test_histories_and_answers_hold_the_very_same_ids(targets: str, tok: Any) -> None:
    made = catalogue(tok)
    sequences = Sequences(np.array([1, 2, 0, 4]), np.array([0, 4]))
    own = [made.token_ID[item, : made.length_I[item] - 1].tolist() for item in range(len(TITLES))]
    end = [tok.eos_token_id]
    if targets == "all":
        layout = Layout.stream(tok)
        batch = Examples(sequences, training_windows(sequences, np.array([4]), 20), made, layout).batch(np.array([0]))
        expected = [layout.lead.tolist(), own[1], end, own[2], end, own[0], end, own[4], end]
        supervised = own[2] + end + own[0] + end + own[4] + end
    else:
        layout = Layout.prompt(tok, prompts.Template("Had: ", ". Next:"))
        batch = Examples.per_target(sequences, np.array([0]), np.array([3]), 20, made, layout).batch(np.array([0]))
        comma = layout.separator.tolist()
        expected = [layout.lead.tolist(), own[1], comma, own[2], comma, own[0], layout.tail.tolist(), own[4], end]
        supervised = own[4] + end
    assert batch.input_BS[0].tolist() == [token for part in expected for token in part]
    assert batch.target_N.tolist() == supervised


@pytest.mark.parametrize("as_chat", [False, True], ids=["plain", "chat"])
def test_bigrecs_prompt_has_the_history_in_a_block_of_its_own(as_chat: bool, tok: Any) -> None:
    tok.chat_template = "{% for message in messages %}<user>{{ message['content'] }}</user>{% endfor %}<assistant>"
    made = catalogue(tok)
    layout = Layout.prompt(tok, prompts.input_template(prompts.chosen(tok, as_chat=as_chat)), prompts.TITLES_SEPARATOR)
    input_BS, mask_BS = layout.prompts(made, np.array([[1, 0, 4], [2, -1, -1]]))
    rows = [tok.decode(row[mask.bool()]) for row, mask in zip(input_BS, mask_BS, strict=True)]
    start = "" if as_chat or tok("a").input_ids[0] != tok.bos_token_id else "<s>"
    for row, titles in zip(rows, ('"Tent for two", "Tent", "A </s> in a title"', '"傘 ☂ é"'), strict=True):
        said = f"Recommend the item that this user will choose next.\n\n{{}}The user chose these items, the oldest first: {titles}"
        block = (
            f"An instruction follows. Give the answer that it asks for.\n\n### Instruction:\n{said}\n\n### Response:\n"
        )
        chat = f"<user>{said.format('')}</user><assistant>"
        assert row == start + (chat if as_chat else block.format("### Input:\n"))


def test_beams_over_titles_score_as_the_model_does(tok: Any) -> None:
    """Titles of all lengths, one inside another: a score is the sum of log-probabilities of path and end token."""
    made, model = catalogue(tok), llama(vocabulary=len(tok))
    prompt = torch.tensor([[5, 9, 30]])
    leaf_BK, score_BK = beam_search(model, prompt, torch.ones_like(prompt), made.trie, beams=10)
    ranked = [(leaf, score) for leaf, score in zip(leaf_BK[0].tolist(), score_BK[0].tolist(), strict=True) if leaf >= 0]
    assert len(ranked) == len(TITLES) - 1, "every title is found, equal ones once"
    exact = {}
    for item in range(len(TITLES)):
        path = made.token_ID[item, : made.length_I[item]].tolist()
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt[0].tolist(), *path]])).logits[0].double().log_softmax(1)
        exact[int(made.trie.leaf_of(torch.tensor([item])))] = sum(
            float(logits[len(prompt[0]) - 1 + place, token]) for place, token in enumerate(path)
        )
    assert [leaf for leaf, _ in ranked] == sorted(exact, key=lambda leaf: -exact[leaf])
    for leaf, score in ranked:
        assert score == pytest.approx(exact[leaf], abs=1e-3)


@pytest.mark.parametrize(
    "more", [["--method", "ilrec"], ["--targets", "last", "--tuning", "lora"], ["--backbone", "tiny-qwen2"]]
)
def test_the_whole_pipeline_on_titles(more: list[str], own_world: Path, ilrec: Run) -> None:
    common = ["--dataset", "toy", "--work", own_world]
    assert ilrec("build-ids", *common, "--scheme", "title", "--name", "titles").code == 0
    train = ilrec("train", *common, "--ids", "titles", "--name", "run", *TINY_LM, *more, "--max-steps", "3")
    assert train.code == 0, train.err
    evaluate = ilrec("evaluate", *common, "--run", "run", "--limit-users", "5")
    assert evaluate.code == 0, evaluate.err
    rows = artifacts.read(next((own_world / "toy" / "runs" / "run" / "eval").iterdir()), "eval").table("rankings")
    raw_ids = set(artifacts.read(own_world / "toy" / "data", "data").table("items")["raw_id"].to_pylist())
    for listed in rows["items"].to_pylist():
        assert len(set(listed)) == len(listed) == 20
        assert set(listed) <= raw_ids
    some = sorted(raw_ids)[:2]
    recommend = ilrec("recommend", *common, "--run", "run", "--history", ",".join(some), "--k", "3")
    assert recommend.code == 0, recommend.err
    vocabulary = artifacts.read(own_world / "toy" / "runs" / "run" / "train", "run").path / "model" / "tokenizer.json"
    assert "<a_0>" not in vocabulary.read_text(), "no special tokens are added"
