"""Items to vectors by the command line: text, fields, collaborative embeddings; and items that come later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Finished
from safetensors.numpy import load_file

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import embed, tokenizer
from ilrec_cli.stages import _ids_folder, _text_vectors, _vectors

Run = Callable[..., Finished]
CODES = ("-o", "codes=16")


def common(work: Path) -> list[Any]:
    return ["--dataset", "toy", "--work", work]


def build(ilrec: Run, work: Path, name: str, *more: Any) -> artifacts.Artifact:
    result = ilrec("build-ids", *common(work), "--name", name, *CODES, *more)
    assert result.code == 0, result.err
    return artifacts.read(work / "toy" / "ids" / name, "ids")


def vectors_of(ids: artifacts.Artifact) -> np.ndarray:
    return np.asarray(load_file(ids.path / "embeddings.safetensors")["embeddings"])


def items_of(work: Path) -> Any:
    return artifacts.read(work / "toy" / "data", "data").table("items")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A small random BERT."""
    from transformers import BertConfig, BertModel

    tok = tokenizer.train(["Alder Classic Tent"], 300, adds_bos=True)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tok), initializer_range=0.3, **sizes)).save_pretrained(tmp_path / "encoder")
    tok.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


# -- text ---------------------------------------------------------------------------------------------------------------


def test_separate_fields_are_averaged(own_world: Path, encoder: Path, ilrec: Run) -> None:
    """As LC-Rec has it: the mean of the fields' vectors; a field that an item lacks takes no part."""
    more = ["--encoder", encoder, "--text", "title,description", "--pool", "separate"]
    found = vectors_of(build(ilrec, own_world, "apart", *more))
    settings = embed.Settings(name=str(encoder), dtype="float32", max_tokens=512, batch_size=1, device="cpu")
    rows = items_of(own_world).to_pylist()
    for item in (0, 5, 60):
        fields = [rows[item][name] for name in ("title", "description") if rows[item][name]]
        each = [embed.mean_pooled([field], settings, console=Console(quiet=True))[0] for field in fields]
        np.testing.assert_allclose(found[item], sum(each) / len(each), atol=1e-5)
    joined = vectors_of(build(ilrec, own_world, "together", "--encoder", encoder, "--text", "title,description"))
    assert abs(found - joined).max() > 0.01


@pytest.mark.parametrize("flags", [[], ["--resume"]])
@pytest.mark.parametrize("killed", [False, True])
def test_an_encode_that_was_stopped_goes_on_and_leaves_nothing_behind(
    flags: list[str], killed: bool, own_world: Path, encoder: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vectors_of(build(ilrec, own_world, "straight", "--encoder", encoder))
    real, calls = embed.Encoder.pool, []

    def stops(self: Any, tokens: list[list[int]]) -> np.ndarray:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(self, tokens)

    monkeypatch.setattr(embed.Encoder, "pool", stops)
    arguments = ["build-ids", *common(own_world), "--name", "stopped", *CODES, "--encoder", encoder]
    with monkeypatch.context() as patch:
        if killed:  # the folder of the build stays as it is
            patch.setattr(_ids_folder, "_remove", lambda folder, made: None)
        stopped = ilrec(*arguments)
    assert stopped.code == 130
    assert "Go on with --resume" in stopped.out
    assert list((own_world / "toy" / "ids").glob(".vectors-*/*.safetensors"))
    if killed:
        line = ilrec(*arguments, "-o", "codes=4", "--resume").one_line()
        assert "--resume: -o codes is 4, the checkpoint has" in line
    monkeypatch.setattr(embed.Encoder, "pool", lambda self, tokens: calls.append(1) or real(self, tokens))
    calls.clear()
    assert ilrec(*arguments, *flags).code == 0
    batches = -(
        -len(set(_text_vectors.item_texts(items_of(own_world), ("title", "brand", "categories", "description")))) // 64
    )
    assert len(calls) == batches - 2
    assert np.array_equal(vectors_of(artifacts.read(own_world / "toy" / "ids" / "stopped", "ids")), expected)
    assert [path.name for path in (own_world / "toy" / "ids").glob(".*")] == []


def test_two_builds_of_the_same_texts_do_not_remove_each_others_vectors(tmp_path: Path) -> None:
    """What one has finished stays while another reads it; that one removes it."""
    scratch = tmp_path / ".vectors-key"
    with _text_vectors._alone(scratch, Console(quiet=True)):
        (scratch / "0.safetensors").write_bytes(b"kept")
        first = _text_vectors.Encoded(np.zeros((1, 1)), scratch=scratch)
        first.forget()
        assert (scratch / "0.safetensors").is_file()
    first.forget()
    assert not scratch.exists()
    first.forget()


# -- later items --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tfidf", "model", "separate"])
def test_later_items_with_the_text_of_old_ones_get_their_vectors(
    kind: str, own_world: Path, encoder: Path, ilrec: Run
) -> None:
    more = {"tfidf": [], "model": ["--encoder", encoder], "separate": ["--encoder", encoder, "--pool", "separate"]}[
        kind
    ]
    ids = build(ilrec, own_world, "first", *more)
    later = items_of(own_world).take([9, 2, 40])
    found = _vectors.encode_later(later, ids, Console(quiet=True), batch_size=2)
    if kind == "tfidf":
        assert np.array_equal(found, vectors_of(ids)[[9, 2, 40]])
    else:
        np.testing.assert_allclose(found, vectors_of(ids)[[9, 2, 40]], atol=3e-6)


@pytest.mark.parametrize("extended", [False, True])
def test_later_items_are_refused_by_another_encoder_of_the_same_name(
    extended: bool, own_world: Path, encoder: Path, ilrec: Run
) -> None:
    """Also where newer data lack every item that it was to be recognised by."""
    from transformers import BertModel

    ids = build(ilrec, own_world, "first", "--encoder", encoder)
    if extended:
        (ids.path / "later").mkdir()
        _text_vectors.extended(ids, vectors_of(ids)[20:]).write(ids.path / "later")
        ids = dataclasses.replace(ids, path=ids.path / "later")
    model = BertModel.from_pretrained(encoder)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(encoder)
    with pytest.raises(UserError, match="is not the one that '(first|later)' was made with"):
        _vectors.encode_later(items_of(own_world).take([0]), ids, Console(quiet=True))


def test_later_items_need_what_the_first_ones_had(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    items, quiet = items_of(own_world), Console(quiet=True)
    matrix = np.random.default_rng(0).normal(size=(len(items), 6)).astype(np.float32)
    np.save(tmp_path / "all.npy", matrix)
    (tmp_path / "all.txt").write_text("\n".join(items["raw_id"].to_pylist()))
    given = ["--vectors", tmp_path / "all.npy", "--vectors-ids", tmp_path / "all.txt"]
    files = build(ilrec, own_world, "files", *given)
    with pytest.raises(UserError, match="give the new items' with --vectors"):
        _vectors.encode_later(items.take([0]), files, quiet)
    np.save(tmp_path / "later.npy", matrix[[4, 1]])
    (tmp_path / "later.json").write_text(json.dumps(items["raw_id"].take([4, 1]).to_pylist()))
    later = {"vectors": tmp_path / "later.npy", "vectors_ids": tmp_path / "later.json"}
    assert np.array_equal(_vectors.encode_later(items.take([1, 4]), files, quiet, **later), matrix[[1, 4]])
    np.save(tmp_path / "later.npy", matrix[[4, 1], :5])
    with pytest.raises(UserError, match="vectors of 5 numbers, 'files' was made with 6"):
        _vectors.encode_later(items.take([1, 4]), files, quiet, **later)
    mixed = build(ilrec, own_world, "mixed", "--cf", "sasrec")
    with pytest.raises(UserError, match="'sasrec', which knows no later items"):
        _vectors.encode_later(items.take([0]), mixed, quiet)
    plain = build(ilrec, own_world, "plain")
    with pytest.raises(UserError, match="which reads later items too"):
        _vectors.encode_later(items.take([0]), plain, quiet, **later)


# -- collaborative embeddings -------------------------------------------------------------------------------------------


def test_collaborative_embeddings_stand_behind_the_text(own_world: Path, ilrec: Run) -> None:
    text = vectors_of(build(ilrec, own_world, "plain"))
    ids = build(ilrec, own_world, "mixed", "--cf", "sasrec", "--cf-weight", "0.5")
    found, cf = vectors_of(ids), artifacts.read(own_world / "toy" / "cf" / "sasrec" / "train", "cf")
    weight = load_file(cf.path / "model.safetensors")["item.weight"]
    train = {
        item
        for row in artifacts.read(own_world / "toy" / "data", "data").table("sequences")["items"].to_pylist()
        for item in row[:-2]
    }
    assert 0 < len(train) < len(text), "some items are cold"
    for item in range(len(text)):
        expected = 0.5 * weight[item] / np.linalg.norm(weight[item]) if item in train else np.zeros(16)
        np.testing.assert_allclose(found[item, 64:], expected, atol=1e-6)
        np.testing.assert_allclose(found[item, :64], text[item], atol=1e-6)
    assert ids.manifest["parents"]["cf"] == cf.digest
    assert (ids.config["cf"], ids.config["cf_weight"]) == ("sasrec", 0.5)


def test_a_model_without_item_embeddings_is_refused_by_name(own_world: Path, ilrec: Run) -> None:
    result = ilrec("build-ids", *common(own_world), *CODES, "--cf", "popularity")
    assert "--cf popularity: the model popularity has no item embeddings" in result.one_line()


# -- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--text", "title,price"], "--text names 'price'"),
        (["--pool", "separate"], "--pool separate needs a Hugging Face encoder"),
        (["--vectors", "x.npy", "--encoder", "some/model"], "--vectors takes the place of --encoder"),
        (["--vectors-ids", "x.txt"], "describe a file of vectors"),
        (["--encoder", "./nothing"], "encoder './nothing': no such folder"),
        (["--cf", "nothing"], "no collaborative model 'nothing'"),
        (["--cf-weight", "0"], "cf_weight is 0.0, expected more than 0"),
        (["--max-tokens", "0"], "max_tokens is 0, expected at least 1"),
        (["--max-tokens", "5"], "--max-tokens plays no part where vectors come from the encoder tfidf"),
        (
            ["--encoder", "./x", "--vector-size", "5"],
            "--vector-size plays no part where vectors come from the encoder ./x",
        ),
        (["--cf-weight", "2"], "--cf-weight plays no part without --cf"),
    ],
)
def test_settings_that_do_not_go_together(flags: list[str], expected: str, world: Path, ilrec: Run) -> None:
    assert expected in ilrec("build-ids", *common(world), *flags).one_line()
