"""BIGRec from the command line: free text, grounded and adjusted, against loops in float64; stops, processes, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import TINY_LM, Finished
from processes import in_two

from ilrec_cli import artifacts, cli
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.lm import backbone, ground
from ilrec_cli.stages import _chunks, _inputs, _models, _text_vectors

Run = Callable[..., Finished]
LEARNS = ["--epochs", "4", "--batch-size", "8", "--learning-rate", "0.01", "--valid-users", "5", "--valid-beams", "2"]
FREE = ["--decode", "free", "--text-tokens", "6"]
PLAIN = "test-full-free-beam4-tok6-text"


def common(work: Path) -> list[str]:
    return ["--dataset", "toy", "--work", str(work)]


@pytest.fixture(scope="module")
def titled(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the world with titles for identifiers, and ILRec trained on them."""
    work = Path(shutil.copytree(world, tmp_path_factory.mktemp("titled") / "world"))
    same = [*common(work), "--quiet"]
    cli.invoke(["build-ids", *same, "--scheme", "title", "--name", "titles"])
    cli.invoke(["train", *same, "--ids", "titles", "--method", "ilrec", "--name", "bigrec", *TINY_LM, *LEARNS])
    cli.invoke(["evaluate", *same, "--run", "bigrec", *FREE])
    return work


def done(work: Path, protocol: str = PLAIN, run: str = "bigrec") -> Artifact:
    return artifacts.read(work / "toy" / "runs" / run / "eval" / protocol, "eval")


def titles_of(work: Path) -> list[str]:
    return [
        title
        for (title,) in artifacts.read(work / "toy" / "ids" / "titles", "ids").table("item_ids")["tokens"].to_pylist()
    ]


def distances(work: Path, texts: list[str]) -> np.ndarray:
    """distance_EI in float64, from vectors that `ids extend` gives later items."""
    ids = artifacts.read(work / "toy" / "ids" / "text", "ids")
    none = pa.nulls(len(texts) + len(titles_of(work)), pa.string())
    every = pa.table({"title": [*texts, *titles_of(work)], "brand": none, "categories": none, "description": none})
    vectors = _text_vectors.encode_later(every, ids, Console(quiet=True), device="cpu", batch_size=8).astype(np.float64)
    return np.linalg.norm(vectors[: len(texts), None] - vectors[None, len(texts) :], axis=2)


def shared_ranks(score_EI: np.ndarray, titles: list[str], target_E: list[int]) -> list[int]:
    """Best rank of an item with the target's title; among equal scores the lower item comes first."""
    found = []
    for score_I, target in zip(score_EI, target_E, strict=True):
        order = np.lexsort((np.arange(len(score_I)), score_I)).tolist()
        found.append(min(order.index(item) for item, title in enumerate(titles) if title == titles[target]))
    return found


def numbers(work: Path) -> dict[str, int]:
    raw = artifacts.read(work / "toy" / "data", "data").table("items")["raw_id"].to_pylist()
    return {name: number for number, name in enumerate(raw)}


def test_crr_over_title_tokens_trains(titled: Path) -> None:
    rows = [json.loads(line) for line in (titled / "toy/runs/bigrec/train/log.jsonl").read_text().splitlines()]
    rewarded = [row["crr"] for row in rows if "crr" in row]
    assert len(rewarded) > 4
    assert all(np.isfinite(rewarded))
    assert any(value > 0 for value in rewarded), "titles branch, so there is something to be rewarded for"
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_texts_are_grounded_as_by_brute_force(titled: Path) -> None:
    found, titles, number = done(titled), titles_of(titled), numbers(titled)
    texts, rows = found.table("texts").to_pylist(), found.table("rankings").to_pylist()
    assert [row["event"] for row in texts] == [row["event"] for row in rows]
    distance_EI = distances(titled, [row["text"] for row in texts])
    expected = shared_ranks(distance_EI, titles, [number[row["target"]] for row in rows])
    assert [row["rank"] for row in rows] == [rank if rank < 20 else -1 for rank in expected]
    for row, distance_I in zip(rows, distance_EI, strict=True):
        listed = [number[item] for item in row["items"]]
        np.testing.assert_allclose(-np.array(row["scores"]), np.sort(distance_I)[:20], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(distance_I[listed], np.sort(distance_I)[:20], rtol=1e-5, atol=1e-6)
    metrics = found.json("metrics.json")
    assert metrics["protocol"]["embedding"] == "tfidf of text"
    assert metrics["texts"]["titles"] == np.mean([row["text"] in titles for row in texts])
    assert [row["is_title"] for row in texts] == [row["text"] in titles for row in texts]
    assert metrics["texts"]["distinct_texts"] == len({row["text"] for row in texts})


def test_texts_are_the_best_beams_of_generate(titled: Path) -> None:
    """By transformers' own beam search, prompt by prompt."""
    data = artifacts.read(titled / "toy" / "data", "data")
    run, ids = (
        artifacts.read(titled / "toy" / part, kind)
        for part, kind in (("runs/bigrec/train", "run"), ("ids/titles", "ids"))
    )
    ranker = _models.open_ranker(run, ids, data, device=torch.device("cpu"), dtype=torch.float32, beams=4)
    tok, sequences = backbone.saved_tokenizer(run.path / "model"), data.table("sequences")["items"].to_pylist()
    written = done(titled).table("texts")["text"].to_pylist()
    for row in range(0, 120, 17):
        ids_1S, mask_1S = ranker.layout.prompts(ranker.catalogue, np.array([sequences[row][:-1][-20:]]))
        out = ranker.model.generate(ids_1S, attention_mask=mask_1S, num_beams=4, max_new_tokens=6, do_sample=False)
        assert tok.decode(out[0, ids_1S.shape[1] :], skip_special_tokens=True).strip() == written[row]


@pytest.mark.parametrize("by", ["popularity", "cf"])
def test_gamma_is_chosen_on_validation_and_applied_to_test(titled: Path, ilrec: Run, by: str) -> None:
    result = ilrec("evaluate", *common(titled), "--run", "bigrec", *FREE, "--adjust", by)
    assert result.code == 0, result.err
    assert "evaluated already" in result.out, "texts of the test events are there"
    data, titles, number = artifacts.read(titled / "toy" / "data", "data"), titles_of(titled), numbers(titled)
    sequences = _inputs.sequences(data)

    def scored(protocol: str, split: str, gamma: float) -> tuple[np.ndarray, list[int]]:
        found = done(titled, protocol)
        _, user, end = _inputs.events(data, split)
        distance = distances(titled, found.table("texts")["text"].to_pylist())
        if by == "popularity":
            other = _inputs.training_popularity(data)[None].astype(float)
        else:
            model = _models.open_cf(artifacts.read(titled / "toy/cf/sasrec/train", "cf"), data, torch.device("cpu"))
            rows = [
                sequences.items[start : start + stop] for start, stop in zip(sequences.offsets[user], end, strict=True)
            ]
            other = np.concatenate([model.scores(torch.from_numpy(row[-20:])[None]).double().numpy() for row in rows])
        near, other = ((each - each.min(1, keepdims=True)) / np.ptp(each, 1)[:, None] for each in (distance, other))
        targets = [number[row] for row in found.table("rankings")["target"].to_pylist()]
        return near / (1 + other) ** gamma, shared_ranks(near / (1 + other) ** gamma, titles, targets)

    protocol = f"{PLAIN}-{by}-gauto" if by == "popularity" else f"{PLAIN}-cf-sasrec-gauto"
    found = done(titled, protocol)
    chosen = found.json("metrics.json")["adjustment"]

    def ndcg(gamma: float) -> float:
        ranks = np.array(scored(PLAIN.replace("test", "valid"), "valid", gamma)[1])
        return float(np.mean((ranks < 10) / np.log2(ranks + 2)))

    assert chosen["valid_ndcg@10"] == pytest.approx(ndcg(chosen["gamma"]))
    assert chosen["without"] == pytest.approx(ndcg(0.0))
    for other in (0.05, 0.5, 1.0, 7.0):
        better = ndcg(other) - chosen["valid_ndcg@10"]
        assert better <= 1e-12
        assert better < 0 or other >= chosen["gamma"], "of equal ones the least"
    rows = found.table("rankings").to_pylist()
    score_EI, ranks = scored(PLAIN, "test", chosen["gamma"])
    assert [row["rank"] for row in rows] == [rank if rank < 20 else -1 for rank in ranks]
    for row, score_I in zip(rows, score_EI, strict=True):
        np.testing.assert_allclose(-np.array(row["scores"]), np.sort(score_I)[:20], rtol=1e-5, atol=1e-6)
    assert set(found.manifest["parents"]) == {"run", "data", "encoder", *(["cf"] if by == "cf" else [])}


def test_compare_and_report_know_the_protocol(titled: Path, ilrec: Run) -> None:
    assert ilrec("evaluate", *common(titled), "--run", "bigrec,sasrec").code == 0
    result = ilrec("compare", *common(titled), "sasrec", f"bigrec:{PLAIN}", "--slices", "--metrics", "hit@10")
    assert result.code == 0, result.err
    line = ilrec("compare", *common(titled), "bigrec:test-full-beam20-vocab", f"bigrec:{PLAIN}").one_line()
    assert "search beams and free" in line
    report = ilrec("report", *common(titled))
    assert report.code == 0, report.err
    assert "text of beam 4, nearest titles" in report.out


def files(work: Path, protocol: str) -> dict[str, bytes]:
    folder = done(work, protocol).path
    return {
        path.name: path.read_bytes()
        for path in folder.glob("*.*")
        if path.name in ("rankings.parquet", "metrics.json", "texts.parquet")
    }


SOME = ["--limit-users", "48"]
GUIDED = "test-full-beam3-vocab-cf0.5-sasrec-n48-s0"
WAYS = (([*FREE, *SOME], f"{PLAIN}-n48-s0"), (["--cf-guidance", "0.5", "--beams", "3", *SOME], GUIDED))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(_chunks, "CHUNK", 16)
    return ["--batch-size", "16", "--overwrite"]


def test_stops_and_processes_leave_no_trace(
    titled: Path, ilrec: Run, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free text and D3's search alike: stopped in the last of three chunks; two processes."""
    save, whole = _chunks.save, {}

    def stopped(where: Path, index: int, *rest: Any) -> None:
        if index == 2:
            raise KeyboardInterrupt
        save(where, index, *rest)

    for flags, protocol in WAYS:
        arguments = ["evaluate", *common(titled), "--run", "bigrec", "--device", "cpu", *flags]
        assert ilrec(*arguments, *small).code == 0
        whole[protocol] = files(titled, protocol)
        monkeypatch.setattr(_chunks, "save", stopped)
        assert ilrec(*arguments, *small).code == 130
        monkeypatch.setattr(_chunks, "save", save)
        shutil.rmtree(done(titled, protocol).path)
        result = ilrec(*arguments, *small[:2])
        assert "2 of 3 chunks are there already" in result.out
        assert files(titled, protocol) == whole[protocol]
    commands = [
        ["evaluate", *common(titled), "--run", "bigrec", "--device", "cpu", *flags, *small] for flags, _ in WAYS
    ]
    code = "from ilrec_cli.stages import _chunks; _chunks.CHUNK = 16\nfrom ilrec_cli.cli import invoke\n"
    out = in_two(code + "".join(f"invoke({command!r})\n" for command in commands))
    assert out[1] == ""
    assert {protocol: files(titled, protocol) for _, protocol in WAYS} == whole
    log = [json.loads(line) for line in (done(titled, GUIDED).path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["processes"] == 2


def test_another_collaborative_model_is_another_evaluation(own_world: Path, trained: Path, ilrec: Run) -> None:
    shutil.copytree(trained / "toy" / "runs" / "sft", own_world / "toy" / "runs" / "sft", dirs_exist_ok=True)
    arguments = [
        "evaluate",
        *common(own_world),
        "--run",
        "sft",
        "--limit-users",
        "5",
        "--beams",
        "3",
        "--cf-guidance",
        "0.5",
    ]
    assert ilrec(*arguments).code == 0
    assert "evaluated already" in ilrec(*arguments).out
    train = [
        "train-cf",
        *common(own_world),
        "--name",
        "sasrec",
        "--epochs",
        "1",
        "-o",
        "hidden_size=8",
        "-o",
        "n_heads=1",
    ]
    assert ilrec(*train, "--overwrite").code == 0
    assert "evaluated already" not in ilrec(*arguments).out


def test_recommendations_are_guided_as_evaluations_are(titled: Path, ilrec: Run) -> None:
    flags = ["--cf-guidance", "0.5", "--beams", "10"]
    assert ilrec("evaluate", *common(titled), "--run", "bigrec", *flags).code == 0
    rows = done(titled, "test-full-beam10-vocab-cf0.5-sasrec").table("rankings").to_pylist()
    data = artifacts.read(titled / "toy" / "data", "data")
    raw = list(numbers(titled))
    histories = [[raw[item] for item in items[:-1]] for items in data.table("sequences")["items"].to_pylist()]
    (titled / "in.jsonl").write_text("".join(json.dumps({"history": history}) + "\n" for history in histories[:20]))
    answer = ilrec(
        "recommend", *common(titled), "--run", "bigrec", *flags, "--no-hide-seen", "--input", titled / "in.jsonl",
        "--output", titled / "out.jsonl",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    for row, line in zip(rows, (titled / "out.jsonl").read_text().splitlines(), strict=False):
        assert json.loads(line)["items"] == row["items"][:10]
    from ilrec_cli import Recommender

    loaded = Recommender.load("bigrec", dataset="toy", work=titled, beams=10, cf_guidance=0.5)
    assert [[each.item for each in loaded.recommend([histories[0]], hide_seen=False)[0]]] == [rows[0]["items"][:10]]
    assert loaded.card()["search"]["cf"] == "sasrec"
    alone = ilrec("recommend", *common(titled), "--run", "sasrec", "--history", histories[0][0], "--cf-guidance", "0.5")
    assert "'sasrec' scores every item itself" in alone.one_line()
    plain = ilrec("recommend", *common(titled), "--run", "bigrec", "--user", "x", "--cf-guidance", "2").one_line()
    assert "cf_guidance is 2" in plain


def test_what_cannot_be_is_refused_in_one_line(titled: Path, ilrec: Run) -> None:
    cli.invoke(
        [
            "train",
            *common(titled),
            "--quiet",
            "--ids",
            "text",
            "--method",
            "sft",
            "--name",
            "codes",
            *TINY_LM,
            "--max-steps",
            "1",
        ]
    )
    evaluate = ["evaluate", *common(titled), "--run", "bigrec"]
    for flags, part in (
        (["--adjust", "popularity"], "--decode free"),
        ([*FREE, "--exact", "5"], "leave out --decode free"),
        ([*FREE, "--cf-guidance", "0.5"], "leave out --decode free"),
        ([*FREE, "--adjust", "cf", "--split", "valid"], "chosen on validation"),
        ([*FREE, "--adjust", "cf", "--gamma", "much"], "expected a number"),
        ([*FREE, "--grounding", "base"], "started from scratch"),
        ([*FREE, "--grounding", "titles"], "not made by an encoder"),
        ([*FREE, "--run", "codes"], "which are no text"),
        (["--cf-guidance", "0.5", "--cf", "sasrek"], "sasrec"),
        (["--cf-guidance", "0.5", "--exact", "5"], "--cf-guidance"),
    ):
        assert part in ilrec(*evaluate, *flags).one_line(), flags
    cli.invoke(["build-ids", *common(titled), "--quiet", "--name", "other", "-o", "codes=8"])
    line = ilrec(*evaluate, *FREE, "--overwrite").one_line()
    assert "choose one with --grounding: other, text" in line
    shutil.rmtree(titled / "toy" / "ids" / "other")
    shutil.move(titled / "toy" / "ids" / "text", titled / "aside")
    assert "make identifiers with an encoder: ilrec build-ids" in ilrec(*evaluate, *FREE, "--overwrite").one_line()
    shutil.move(titled / "aside", titled / "toy" / "ids" / "text")


def test_chunks_of_texts_change_nothing(titled: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of all texts at once, and of one after another; adjusted by a gamma that is chosen in the same way."""
    flags = [
        "evaluate",
        *common(titled),
        "--run",
        "bigrec",
        *FREE,
        *SOME,
        "--adjust",
        "cf",
        "--cf",
        "sasrec",
        "--overwrite",
    ]
    plain, adjusted = f"{PLAIN}-n48-s0", f"{PLAIN}-cf-sasrec-gauto-n48-s0"
    assert ilrec(*flags).code == 0
    expected, listed = files(titled, plain), done(titled, adjusted).table("rankings").to_pylist()
    monkeypatch.setattr(ground, "CELLS", 1)
    assert ilrec(*flags).code == 0
    assert files(titled, plain) == expected
    for row, other in zip(done(titled, adjusted).table("rankings").to_pylist(), listed, strict=True):
        assert (row["rank"], row["items"]) == (other["rank"], other["items"])
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-6), "SASRec's own, in other batches"


def test_titles_that_cannot_be_written_to_their_end_are_counted(titled: Path, ilrec: Run) -> None:
    flags = ["evaluate", *common(titled), "--run", "bigrec", "--decode", "free", "--limit-users", "4", "--text-tokens"]
    few = ilrec(*flags, "2")
    assert few.code == 0, few.err
    items = len(titles_of(titled))
    assert f"--text-tokens 2: the titles of {items} of {items} items are longer" in few.err
    assert "cannot be written" not in ilrec(*flags, "64").err
