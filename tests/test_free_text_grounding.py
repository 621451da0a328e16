"""What free text is grounded with: encoders of identifiers, a pretrained base, vectors that are known, the grid of gamma."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LM, Finished, llama
from test_free_text import FREE, common, done, titles_of

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.lm import backbone, embed, ground, tokenizer
from ilrec_cli.stages import _free, _grounding

Run = Callable[..., Finished]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_pretrained_base_grounds_its_own_titles(own_world: Path, tmp_path: Path, ilrec: Run, tuning: str) -> None:
    common_ = common(own_world)
    texts = artifacts.read(own_world / "toy" / "data", "data").table("items")["title"].to_pylist()
    tok = tokenizer.train(texts, 400, adds_bos=True)
    llama(len(tok), layers=2, width=16).save_pretrained(tmp_path / "base-model")
    tok.save_pretrained(tmp_path / "base-model")
    assert ilrec("build-ids", *common_, "--scheme", "title", "--name", "titles").code == 0
    train = ["train", *common_, "--ids", "titles", "--method", "sft", "--name", "run", *TINY_LM, "--max-steps", "2"]
    train += ["--backbone", tmp_path / "base-model", "--tuning", tuning, "--learning-rate", "0.05"]
    assert "leave --targets all out" in ilrec(*train, "--prompt", "input", "--targets", "all").one_line()
    assert ilrec(*train, "--prompt", "input").code == 0
    layout = json.loads((own_world / "toy/runs/run/train/layout.json").read_text())
    assert tok.decode(layout["tail"]) == '"\n\n### Response:\n'
    assert tok.decode(layout["separator"]) == '", "'
    assert "### Input:" in layout["templates"][0]["text"]
    result = ilrec("evaluate", *common_, "--run", "run", "--limit-users", "9", *FREE)
    assert result.code == 0, result.err
    found = done(own_world, "test-full-free-beam4-tok6-base-n9-s0", "run")
    assert found.json("metrics.json")["protocol"]["embedding"] == "last token, last layer of base-model"
    base = backbone.load(str(tmp_path / "base-model"), torch.float32).model.eval()
    titles = titles_of(own_world)
    vector_ID = ground.last_states(base, tok, titles, 8).double()
    rows, texts = found.table("rankings").to_pylist(), found.table("texts")["text"].to_pylist()
    for row, text in zip(rows, texts, strict=True):
        ids = torch.tensor([tok(text).input_ids])
        state = base(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1].double()
        distance_I = (vector_ID - state).norm(dim=1).detach()
        np.testing.assert_allclose(-np.array(row["scores"]), distance_I.sort().values[:20], rtol=1e-4)


def test_a_hugging_face_encoder_of_identifiers_grounds_too(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    same, folder = common(own_world), tmp_path / "encoder"
    titles_ = artifacts.read(own_world / "toy" / "data", "data").table("items")["title"].to_pylist()
    tok = tokenizer.train(titles_, 400, adds_bos=False)
    llama(len(tok), layers=2, width=16).save_pretrained(folder)
    tok.save_pretrained(folder)
    build = ["build-ids", *same, "--encoder", folder, "--text", "title,brand", "--pool", "separate", "-o", "codes=8"]
    assert ilrec(*build, "--name", "by-model").code == 0
    assert ilrec("build-ids", *same, "--scheme", "title", "--name", "titles").code == 0
    train = ["train", *same, "--ids", "titles", "--method", "sft", "--name", "run", *TINY_LM, "--max-steps", "2"]
    assert ilrec(*train).code == 0
    result = ilrec("evaluate", *same, "--run", "run", "--limit-users", "9", *FREE, "--grounding", "by-model")
    assert result.code == 0, result.err
    found = done(own_world, "test-full-free-beam4-tok6-by-model-n9-s0", "run")
    assert found.json("metrics.json")["protocol"]["embedding"] == "encoder of by-model"
    texts = found.table("texts")["text"].to_pylist()
    settings = embed.Settings(name=str(folder), dtype="float32", max_tokens=512, batch_size=4, device="cpu")
    vectors = embed.mean_pooled([*texts, *titles_of(own_world)], settings, console=Console(quiet=True)).astype(
        np.float64
    )
    distance_EI = np.linalg.norm(vectors[:9, None] - vectors[None, 9:], axis=2)
    for row, distance_I in zip(found.table("rankings").to_pylist(), distance_EI, strict=True):
        np.testing.assert_allclose(-np.array(row["scores"]), np.sort(distance_I)[:20], rtol=1e-4)


def test_a_text_that_is_a_title_has_the_titles_own_vector() -> None:
    """Encoders differ in their last bits from batch to batch; this one differs by as much as it can."""
    rng = np.random.default_rng(0)
    seen: list[list[str]] = []

    def embed(texts: list[str]) -> torch.Tensor:
        seen.append(texts)
        return torch.from_numpy(rng.normal(size=(len(texts), 3)).astype(np.float32))

    grounding = _grounding.Grounding(embed, ["Tent", "Lamp", "Tent"], Console(quiet=True), 2)
    texts = ["Lamp", "Stove", "Tent", "Axe", "Stove"]
    distance_BI = grounding.titles.distances(grounding.vectors(texts))
    assert seen == [["Lamp", "Tent"], ["Axe", "Stove"]], "what is known is not read again, and each text once"
    assert distance_BI[0, 1] == distance_BI[2, 0] == distance_BI[2, 2] == 0
    assert torch.equal(distance_BI[1], distance_BI[4])
    assert grounding.is_title(texts).tolist() == [True, False, True, False, False]


def test_the_grid_is_what_the_record_says() -> None:
    assert _free.GRID[0] == 0
    assert len(_free.GRID) == len(set(_free.GRID)) == 199
    assert list(_free.GRID) == sorted(_free.GRID)
