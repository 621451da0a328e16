"""--explain against a plain forward pass and loops over the equations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LM, Finished

from ilrec_cli import Recommender, cli
from ilrec_cli.errors import UserError
from ilrec_cli.stages import _engines


@pytest.fixture(scope="module")
def ilrec_run(trained: Path) -> Recommender:
    return Recommender.load(trained / "toy" / "runs" / "ilrec")


def test_the_steps_add_up_to_the_score(ilrec_run: Recommender) -> None:
    history = ilrec_run.history(5)
    (found,) = ilrec_run.recommend([history], 3)
    assert ilrec_run.explain(history)["item"] == found[0].item
    for each in found:
        steps = ilrec_run.explain(history, each.item)["steps"]
        chosen = [token["final"] for step in steps for token in step["tokens"] if token["chosen"]]
        assert len(chosen) == len(steps)
        assert sum(map(math.log, chosen)) == pytest.approx(each.score, abs=1e-4)


def test_probabilities_and_negatives_are_those_of_the_equations(ilrec_run: Recommender) -> None:
    history, item = ilrec_run.history(2)[:6], ilrec_run.raw_ids[11]
    made = ilrec_run.explain(history, item)
    assert isinstance(ilrec_run.engine, _engines.Search)
    ranker = ilrec_run.engine.ranker
    assert made["layers"] == [2]
    assert made["alpha"] == 0.8
    catalogue, number = ranker.catalogue, ilrec_run.numbers[item]
    prompt, _ = ranker.layout.prompts(catalogue, ilrec_run.items(history, "")[None])
    path = catalogue.token_ID[number][: catalogue.length_I[number]]
    ids = torch.cat([prompt[0], torch.from_numpy(path)])[None]
    with torch.no_grad():
        output = ranker.model(input_ids=ids, output_hidden_states=True)
        inner_SV = ranker.model.lm_head(ranker.model.model.norm(output.hidden_states[2]))[0]
    names = {ranker_token: n for n, ranker_token in enumerate(_vocabulary(ilrec_run))}
    for n, step in enumerate(made["steps"]):
        place = prompt.shape[1] - 1 + n
        final, inner = (logits[place].double().softmax(-1).numpy() for logits in (output.logits[0], inner_SV))
        target = int(path[n])
        negative = [v for v in range(len(inner)) if v != target and inner[v] >= 0.8 * inner[target]]
        assert step["negatives"] == len(negative)
        weight = {v: inner[v] / inner[negative].sum() for v in negative}
        next_tokens = {int(row[n]) for row in catalogue.token_ID if np.array_equal(row[:n], path[:n])}
        assert step["candidates"] == len(next_tokens)
        for token in step["tokens"]:
            v = names[token["token"]]
            assert token["final"] == pytest.approx(final[v], rel=1e-4)
            assert token["layers"] == {"2": pytest.approx(inner[v], rel=1e-4)}
            assert token["ensemble"] == pytest.approx(inner[v], rel=1e-4)
            assert token["negative"] == (v in weight)
            assert token["penalty"] == pytest.approx(weight.get(v, 0.0), rel=1e-3, abs=1e-9)
            assert token["continues"] == (v in next_tokens)
            assert token["chosen"] == (v == target)
        shown = [names[token["token"]] for token in step["tokens"]]
        assert max(next_tokens, key=lambda v: final[v]) in shown
        assert max(weight, key=lambda v: weight[v]) in shown


def _vocabulary(recommender: Recommender) -> list[str]:
    from ilrec_cli.lm import backbone

    tokenizer = backbone.saved_tokenizer(recommender.model.path / "model")
    return list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))


def test_the_command(trained: Path, ilrec: Callable[..., Finished]) -> None:
    common = ["recommend", "--dataset", "toy", "--work", trained, "--user", "A00001HOBBY", "--k", "2"]
    shown = ilrec(*common, "--run", "ilrec", "--explain", "--json")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out.splitlines()[-1])
    assert found["explanation"]["item"] == found["recommendations"][0]["item"]
    assert "step 1: <a_" in shown.out
    assert "negatives (alpha 0.8)" in shown.out
    item = found["recommendations"][1]["item"]
    plain = ilrec(*common, "--run", "sft", "--explain", "--explain-item", item, "--json")
    steps = json.loads(plain.out.splitlines()[-1])["explanation"]
    assert steps["item"] == item
    assert all(token["negative"] is None for step in steps["steps"] for token in step["tokens"])
    assert "is a collaborative model" in ilrec(*common, "--run", "sasrec", "--explain").one_line()
    line = ilrec(*common, "--run", "sft", "--explain", "--explain-item", f"{item}X").one_line()
    assert f"Did you mean '{item}'?" in line
    assert "belongs to --explain" in ilrec(*common, "--run", "sft", "--explain-item", item).one_line()


def test_a_run_is_explained_in_its_scope_and_with_its_own_heads(trained: Path) -> None:
    command = [
        "train",
        "--dataset",
        "toy",
        "--work",
        str(trained),
        "--quiet",
        "--name",
        "scoped",
        "--vocab-scope",
        "ids",
    ]
    cli.invoke([*command, "-o", "layer_head=separate", "-o", "negatives_scope=trie", *TINY_LM])
    scoped = Recommender.load(trained / "toy" / "runs" / "scoped")
    history = scoped.history(5)
    (found,) = scoped.recommend([history], 3)
    for each in found:
        steps = scoped.explain(history, each.item)["steps"]
        chosen = [token["final"] for step in steps for token in step["tokens"] if token["chosen"]]
        assert len(chosen) == len(steps)
        assert sum(map(math.log, chosen)) == pytest.approx(each.score, abs=1e-4)
        assert all(token["continues"] for step in steps for token in step["tokens"]), "negatives are among the children"


def test_nothing_to_explain_is_said(ilrec_run: Recommender) -> None:
    with pytest.raises(UserError, match="the history holds all of them"):
        ilrec_run.explain(ilrec_run.raw_ids)


def test_an_explanation_waits_for_its_turn(ilrec_run: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    monkeypatch.setattr(
        "ilrec_cli.stages._explain.explain", lambda *_: held.append(ilrec_run._lock.locked()) or {"steps": []}
    )
    ilrec_run.explain(ilrec_run.raw_ids[:2], ilrec_run.raw_ids[5])
    assert held == [True]
