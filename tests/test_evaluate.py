"""Evaluation as a whole: chunks, processes, stops, what metrics.json says; and comparisons, from the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Finished
from processes import in_two

from ilrec_cli import artifacts, cli
from ilrec_cli.metrics import ranking_metrics
from ilrec_cli.stages import _chunks, _inputs, _protocol, _rankings, _summary

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def own(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained world for this file: other tests count what was evaluated."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("evaluate") / "world"))


def common(work: Path) -> list[str]:
    return ["--dataset", "toy", "--work", str(work)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Chunks of 16 events: the toy world has eight of them."""
    monkeypatch.setattr(_chunks, "CHUNK", 16)
    return ["--batch-size", "16", "--overwrite"]


def folder_of(work: Path, run: str = "ilrec", kind: str = "runs", protocol: str = "test-full-beam20-vocab") -> Path:
    return work / "toy" / kind / run / "eval" / protocol


def files(folder: Path) -> dict[str, bytes]:
    """What must not depend on how the work was done."""
    return {name: (folder / name).read_bytes() for name in ("rankings.parquet", "metrics.json")}


def test_a_stopped_evaluation_goes_on_to_the_same_bytes(
    own: Path, ilrec: Run, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ilrec("evaluate", *common(own), "--run", "ilrec", *small).code == 0
    folder, scratch = folder_of(own), _chunks.scratch_of(folder_of(own))
    whole = files(folder)
    assert not scratch.exists()
    save, done = _chunks.save, []

    def killed_in_the_fourth(where: Path, index: int, columns: Any, seconds: float) -> None:
        if index == 3:
            (where / "000003.tmp-1").write_bytes(b"half")
            raise KeyboardInterrupt
        save(where, index, columns, seconds)
        done.append(index)

    monkeypatch.setattr(_chunks, "save", killed_in_the_fourth)
    assert ilrec("evaluate", *common(own), "--run", "ilrec", *small).code == 130
    assert files(folder) == whole, "the evaluation that is there stays until its successor is finished"
    artifacts_before = json.loads((folder / "manifest.json").read_text())
    (scratch / "000001.safetensors").write_bytes((scratch / "000001.safetensors").read_bytes()[:-1] + b"\0")
    done.clear()
    monkeypatch.setattr(_chunks, "save", lambda where, index, *rest: (save(where, index, *rest), done.append(index)))
    (folder / "manifest.json").rename(folder / "gone")  # as if it had never been finished
    folder.rename(folder.with_name("aside"))
    result = ilrec("evaluate", *common(own), "--run", "ilrec", *small[:2])
    assert "2 of 8 chunks are there already" in result.out
    assert done == [1, 3, 4, 5, 6, 7], "a damaged chunk is ranked again, a whole one is not"
    assert files(folder) == whole
    assert json.loads((folder / "manifest.json").read_text())["digest"] == artifacts_before["digest"]
    assert not scratch.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "{}"])
def test_chunks_that_do_not_say_whose_they_are_are_not_taken(tmp_path: Path, text: str) -> None:
    with _chunks.opened(tmp_path / "chunks", {"version": 2}, None):
        _chunks.save(tmp_path / "chunks", 0, {"rank": np.zeros(3)}, 1.0)
    (tmp_path / "chunks" / "identity.json").write_text(text)
    with _chunks.opened(tmp_path / "chunks", {"version": 2}, None):
        assert _chunks.load(tmp_path / "chunks", 0) is None


def test_chunks_of_another_search_are_not_taken(
    own: Path, ilrec: Run, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["evaluate", *common(own), "--run", "sft", "--split", "valid"]
    save = _chunks.save
    monkeypatch.setattr(_chunks, "save", lambda where, index, *rest: save(where, index, *rest) if index < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ilrec(*arguments, *small)
    monkeypatch.setattr(_chunks, "save", save)
    result = ilrec(*arguments, "--batch-size", "8")
    assert result.code == 0
    assert "there already" not in result.out


def test_two_processes_give_the_same_bytes(own: Path, ilrec: Run, small: list[str]) -> None:
    arguments = ["evaluate", *common(own), "--run", "ilrec,sasrec", "--device", "cpu", *small]
    assert ilrec(*arguments).code == 0
    folders = [folder_of(own), folder_of(own, "sasrec", "cf", "test-full")]
    alone = [files(folder) for folder in folders]
    code = "from ilrec_cli.stages import _chunks; _chunks.CHUNK = 16\nfrom ilrec_cli.cli import main; main()"
    out = in_two(code, *arguments)
    assert "hit@10" in out[0]
    assert out[1] == "", "only the first process speaks"
    assert [files(folder) for folder in folders] == alone
    log = [json.loads(line) for line in (folders[0] / "log.jsonl").read_text().splitlines()]
    assert [line["chunk"] for line in log[:-1]] == list(range(8))
    assert sum(line["events"] for line in log[:-1]) == log[-1]["events"] == 120
    assert log[-1]["processes"] == 2


def test_memory_that_does_not_suffice_is_an_error(own: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    before = files(folder_of(own)) if folder_of(own).exists() else None
    monkeypatch.setattr("ilrec_cli.lm.rank.Ranker.rank", refused)
    line = ilrec("evaluate", *common(own), "--run", "ilrec", "--overwrite").one_line()
    assert "--batch-size" in line
    assert "The search was not changed" in line
    assert before == (files(folder_of(own)) if folder_of(own).exists() else None)


def test_metrics_json_against_plain_loops(own: Path, ilrec: Run) -> None:
    assert ilrec("evaluate", *common(own), "--run", "sft,popularity", "--ks", "3", "--overwrite").code == 0
    data = artifacts.read(own / "toy" / "data", "data")
    popularity = _inputs.training_popularity(data)
    sequences = data.table("sequences")["items"].to_pylist()
    for folder in (folder_of(own, "sft"), folder_of(own, "popularity", "cf", "test-full")):
        done = artifacts.read(folder, "eval")
        found, rows = done.json("metrics.json"), done.table("rankings").to_pylist()
        assert found["version"] == 2
        assert found["ks"] == [1, 3, 5, 10, 20]
        assert found["events"] == found["users"] == len(rows) == 120
        hits = [0 <= row["rank"] < 3 for row in rows]
        assert found["metrics"]["hit@3"] == found["metrics"]["recall@3"] == sum(hits) / 120
        low, high = found["intervals"]["hit@10"]
        assert low <= found["metrics"]["hit@10"] <= high
        assert found["lists"]["coverage@5"] == len({item for row in rows for item in row["items"][:5]}) / len(
            popularity
        )
        groups: dict[str, list[bool]] = {}
        for hit, items in zip(hits, sequences, strict=True):
            count, shown = popularity[items[-1]], len(items) - 1
            bins = [("0", 1), ("1-4", 5), ("5-9", 10), ("10-29", 30), ("30-99", 100), ("100+", 10**9)]
            groups.setdefault("target_popularity/" + next(name for name, top in bins if count < top), []).append(hit)
            bins = [("0-2", 3), ("3-4", 5), ("5-9", 10), ("10-19", 20), ("20+", 10**9)]
            groups.setdefault("history_length/" + next(name for name, top in bins if shown < top), []).append(hit)
            groups.setdefault("target/" + ("warm" if count else "cold"), []).append(hit)
        for name, values in groups.items():
            kind, part = name.split("/")
            assert found["slices"][kind][part]["events"] == len(values), name
            assert found["slices"][kind][part]["metrics"]["hit@3"] == pytest.approx(sum(values) / len(values)), name


def test_shared_identifiers_are_counted_in_lists_and_in_metrics(own_world: Path, ilrec: Run) -> None:
    """Six codes for all items: nearly every target shares its identifier."""
    from conftest import TINY_LM

    same = ["--dataset", "toy", "--work", str(own_world), "--quiet"]
    cli.invoke(["build-ids", *same, "--name", "few", "-o", "codes=3", "-o", "levels=2", "--collisions", "keep"])
    cli.invoke(["train", *same, "--ids", "few", "--method", "sft", "--name", "few", *TINY_LM, "--max-steps", "2"])
    assert ilrec("evaluate", *common(own_world), "--run", "few").code == 0
    done = artifacts.read(folder_of(own_world, "few"), "eval")
    found, rows = done.json("metrics.json"), done.table("rankings").to_pylist()
    codes = {row["raw_id"]: tuple(row["codes"]) for row in artifacts.read(own_world / "toy" / "ids" / "few", "ids").table("item_ids").to_pylist()}  # fmt: skip
    values = []
    for row in rows:
        own = codes[row["target"]]
        assert row["sharing"] == sum(each == own for each in codes.values())
        places = [place for place, item in enumerate(row["items"]) if codes[item] == own]
        assert row["first"] == (places[0] if places else -1)
        assert row["rank"] == -1 or row["first"] <= row["rank"]
        values.append(np.mean([row["first"] + n < 10 for n in range(row["sharing"])]) if places else 0)
    assert found["metrics"]["expected_hit@10"] == pytest.approx(np.mean(values))
    assert found["ambiguous_targets"] == sum(row["sharing"] > 1 for row in rows) > 60
    assert found["slices"]["identifier"]["shared"]["events"] == found["ambiguous_targets"]


def test_exact_scores_judge_the_search(own: Path, ilrec: Run) -> None:
    arguments = ["evaluate", *common(own), "--run", "ilrec", "--exact", "10", "--json"]
    result = ilrec(*arguments, "--beams", "2")
    assert result.code == 0, result.err
    assert "of the 10 users' best items by exact scores" in result.out
    found = json.loads(result.out.splitlines()[-1])["exact"]["ilrec"]
    assert list(found["beam_recall"]) == ["1"], "two beams say nothing of longer lists"
    written = artifacts.read(folder_of(own, protocol="test-full-exact-beam2-vocab-n10-s0"), "eval").json("metrics.json")
    assert written["beam_recall"] == found["beam_recall"]
    every = json.loads(ilrec(*arguments, "--beams", "200").out.splitlines()[-1])["exact"]["ilrec"]
    assert set(every["beam_recall"].values()) == {1.0}, "as many beams as items miss nothing"
    assert every["of_the_search"] == {name: every["metrics"][name] for name in every["of_the_search"]}


def test_every_layer_ranks_and_the_last_is_the_model(own: Path, ilrec: Run) -> None:
    arguments = ["evaluate", *common(own), "--run", "ilrec", "--limit-users", "12", "--json"]
    result = ilrec(*arguments, "--exit-layer", "all")
    assert result.code == 0, result.err
    layers = json.loads(result.out.splitlines()[-1])["exit_layers"]["ilrec"]
    assert [row["layer"] for row in layers] == [1, 2, 3]
    assert all(row["users_per_second"] > 0 for row in layers)
    ilrec(*arguments)
    plain, last, first = (
        artifacts.read(folder_of(own, protocol=f"test-full-beam20-vocab{layer}-n12-s0"), "eval").table("rankings").to_pylist()
        for layer in ("", "-layer3", "-layer1")
    )  # fmt: skip
    assert [row["items"] for row in plain] == [row["items"] for row in last] != [row["items"] for row in first]
    assert "layers 1 to 3" in ilrec(*arguments, "--exit-layer", "4").one_line()
    assert "exit_layer is 'last'" in ilrec(*arguments, "--exit-layer", "last").one_line()


def test_longer_lists_need_as_many_beams(own: Path, ilrec: Run) -> None:
    arguments = ["evaluate", *common(own), "--limit-users", "6", "--ks", "30"]
    assert "Raise --beams to 30" in ilrec(*arguments, "--run", "ilrec").one_line()
    assert ilrec(*arguments, "--run", "ilrec", "--beams", "30").code == 0
    assert ilrec(*arguments, "--run", "sasrec").code == 0
    rows = artifacts.read(folder_of(own, "sasrec", "cf", "test-full-n6-s0"), "eval").table("rankings").to_pylist()
    assert {len(row["items"]) for row in rows} == {30}


@pytest.fixture(scope="module")
def evaluated(own: Path) -> Path:
    cli.invoke(["evaluate", *common(own), "--quiet", "--run", "sft,ilrec,sasrec,popularity"])
    return own


def test_compare_says_what_the_rankings_say(evaluated: Path, ilrec: Run) -> None:
    result = ilrec(
        "compare", *common(evaluated), "popularity", "sasrec", "ilrec", "--metrics", "hit@10,ndcg@20", "--json"
    )
    assert result.code == 0, result.err
    found = json.loads(result.out.splitlines()[-1])
    assert [(row["model"], row["metric"]) for row in found["comparisons"]] == [
        (model, metric) for model in ("sasrec", "ilrec") for metric in ("hit@10", "ndcg@20")
    ]
    ranks = {
        name: artifacts.read(folder_of(evaluated, name, "cf", "test-full"), "eval").table("rankings")["rank"].to_numpy()
        for name in ("popularity", "sasrec")
    }
    values = {name: ranking_metrics(rank, [20])["ndcg@20"] for name, rank in ranks.items()}
    row = found["comparisons"][1]
    assert row["difference"] == pytest.approx(values["sasrec"].mean() - values["popularity"].mean())
    low, high = row["interval"]
    assert low <= row["difference"] <= high
    for one, two in zip(found["comparisons"][:2], found["comparisons"][2:], strict=True):
        assert max(one["p_holm"], two["p_holm"]) == pytest.approx(max(one["p"], two["p"], min(1, 2 * min(one["p"], two["p"]))))  # fmt: skip
    same = ilrec("compare", *common(evaluated), "sft", "sft", "--json").out.splitlines()[-1]
    assert all(row["difference"] == 0 and row["p"] == 1 for row in json.loads(same)["comparisons"])


def test_compare_within_slices(evaluated: Path, ilrec: Run) -> None:
    result = ilrec("compare", *common(evaluated), "sft", "ilrec", "--slices", "--metrics", "hit@10", "--json")
    rows = json.loads(result.out.splitlines()[-1])["comparisons"]
    assert rows[0]["slice"] is None
    history = [row for row in rows if str(row["slice"]).startswith("history_length")]
    assert sum(row["events"] for row in history) == rows[0]["events"] == 120
    total = sum(row["events"] * row["difference"] for row in history)
    assert total == pytest.approx(120 * rows[0]["difference"])


def test_compare_refuses_other_protocols_unless_forced(evaluated: Path, ilrec: Run) -> None:
    cli.invoke(["evaluate", *common(evaluated), "--quiet", "--run", "ilrec", "--beams", "5"])
    arguments = ["compare", *common(evaluated), "sft", "ilrec:test-full-beam5-vocab", "--metrics", "hit@5"]
    assert "beams 20 and 5" in ilrec(*arguments).one_line()
    forced = ilrec(*arguments, "--force")
    assert forced.code == 0
    assert "differ in beams 20 and 5" in forced.err
    assert ilrec("compare", *common(evaluated), "sft", "ilrec").code == 0, "both under evaluate's defaults"
    cli.invoke(["evaluate", *common(evaluated), "--quiet", "--run", "sft", "--limit-users", "9"])
    small = ["compare", *common(evaluated), "ilrec:test-full-beam20-vocab", "sft:test-full-beam20-vocab-n9-s0"]
    assert "limit_users" in ilrec(*small).one_line()
    assert "nothing can be paired" in ilrec(*small, "--force").one_line()
    assert "is not evaluated" in ilrec("compare", *common(evaluated), "sft:nothing", "ilrec").one_line()
    for layer in ("1", "2"):
        cli.invoke(
            [
                "evaluate",
                *common(evaluated),
                "--quiet",
                "--run",
                "ilrec",
                "--split",
                "valid",
                "--beams",
                "3",
                "--exit-layer",
                layer,
            ]
        )
    line = ilrec("compare", *common(evaluated), "ilrec", "ilrec", "--split", "valid").one_line()
    assert "several protocols" in line
    assert "ilrec:valid-full-beam3-vocab-layer1" in line
    assert "at least two" in ilrec("compare", *common(evaluated), "sft").one_line()
    assert (
        "--metrics hits@10" in ilrec("compare", *common(evaluated), "sft", "sasrec", "--metrics", "hits@10").one_line()
    )


def test_seeds_of_one_configuration_are_averaged(evaluated: Path, ilrec: Run) -> None:
    cli.invoke(["train-cf", *common(evaluated), "--quiet", "--model", "random", "--name", "chance-s0"])
    other = [*common(evaluated), "--quiet", "--overwrite", "--name", "chance-s1", "--model"]
    cli.invoke(["train-cf", *other, "popularity"])
    line = ilrec("compare", *common(evaluated), "sasrec", "chance").one_line()
    assert "model is random in chance-s0 and popularity in chance-s1" in line
    cli.invoke(["train-cf", *other, "random", "-o", "seed=1"])
    result = ilrec("compare", *common(evaluated), "sasrec", "chance", "--metrics", "hit@20", "--json")
    assert "chance: mean of 2 seeds" in result.out
    (row,) = json.loads(result.out.splitlines()[-1])["comparisons"]
    assert len(row["seeds"]) == 2
    assert row["value"] == pytest.approx(np.mean(row["seeds"]))


def test_rankings_read_back_are_the_events(evaluated: Path) -> None:
    data = artifacts.read(evaluated / "toy" / "data", "data")
    done = artifacts.read(folder_of(evaluated, "sasrec", "cf", "test-full"), "eval")
    event_E, judged = _rankings.judged(done, data)
    values = _summary.values(judged, [10])
    assert len(np.unique(event_E)) == 120
    assert float(values["hit@10"].mean()) == done.json("metrics.json")["metrics"]["hit@10"]


def test_protocols_of_searches_and_of_scores() -> None:
    lm = {**_protocol.of_cf("test"), "search": "beams", "beams": 20, "normalize": "vocab", "dtype": "float32"}
    assert _protocol.differences(lm, _protocol.of_cf("test")) == []
    assert _protocol.differences(lm, {**lm, "beams": 5}) == ["beams 20 and 5"]
    assert _protocol.differences(_protocol.of_cf("test"), _protocol.of_cf("valid")) == ["split test and valid"]
    assert _protocol.folder({**lm, "exit_layer": 2}) == "test-full-beam20-vocab-layer2"
    assert _protocol.folder(_protocol.exact(lm, 9, 1)) == "test-full-exact-beam20-vocab-n9-s1"
