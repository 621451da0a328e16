"""The public research data: the counts that other papers start from, and the whole pipeline on real text."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_LM, Finished

from ilrec_cli import artifacts, cli
from ilrec_cli.histories import Sequences, training_windows

pytestmark = pytest.mark.realdata
SHARED = Path(os.environ.get("ILREC_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
Run = Callable[..., Finished]


@pytest.fixture(scope="module", autouse=True)
def _data_is_there() -> None:
    if not SHARED.is_dir():
        message = f"no research data at {SHARED}; set ILREC_SHARED_DATA to its folder"
        if os.environ.get("ILREC_REQUIRE_REAL_DATA"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Instruments, preprocessed, with the published identifiers."""
    folder = tmp_path_factory.mktemp("real")
    common = ["--dataset", "Instruments", "--work", str(folder), "--quiet"]
    cli.invoke(["preprocess", *common, "--raw-dir", str(SHARED / "instruments")])
    cli.invoke(
        ["build-ids", *common, "--index", str(SHARED / "instruments" / "Instruments.index.json"), "--name", "published"]
    )
    return folder


def flat(data: artifacts.Artifact) -> Sequences:
    column = data.table("sequences")["items"].combine_chunks()
    return Sequences(column.values.to_numpy().astype(np.int64), column.offsets.to_numpy().astype(np.int64))


def test_instruments_has_the_papers_counts(work: Path, ilrec: Run) -> None:
    result = ilrec("preprocess", "--dataset", "Instruments", "--work", work, "--raw-dir", SHARED / "instruments")
    for count in ("24,772", "9,922", "206,153", "131,837"):
        assert count in result.out
    statistics = artifacts.read(work / "Instruments" / "data", "data").json("card.json")["statistics"]
    assert statistics["validation_targets"] == statistics["test_targets"] == 24_772
    assert statistics["users_without_test"] == 0
    source = json.loads((SHARED / "instruments" / "Instruments.inter.json").read_text())
    items = artifacts.read(work / "Instruments" / "data", "data").table("items")
    numbers = dict(zip(items["item"].to_pylist(), items["source_id"].to_pylist(), strict=True))
    sequences = artifacts.read(work / "Instruments" / "data", "data").table("sequences")["items"].to_pylist()
    found = sorted([int(numbers[item]) for item in row] for row in sequences)
    assert found == sorted(source.values()), "every sequence as published, in its order"


def test_every_training_target_is_supervised_exactly_once(work: Path) -> None:
    data = artifacts.read(work / "Instruments" / "data", "data")
    sequences = flat(data)
    windows = training_windows(sequences, sequences.lengths - 2, 20)
    places = np.concatenate([np.arange(first, stop) for first, stop in zip(windows.first, windows.stop, strict=True)])
    assert len(places) == len(np.unique(places)) == 131_837
    assert (windows.lengths <= 21).all()
    split = data.table("splits")["split"].to_numpy(zero_copy_only=False)
    assert (split == "train").sum() == 131_837


def test_the_published_index_is_imported_as_it_is(work: Path) -> None:
    figures = artifacts.read(work / "Instruments" / "ids" / "published", "ids").json("quality.json")
    assert (figures["items"], figures["distinct_paths"], figures["colliding_items"], figures["largest_group"]) == (
        9_922,
        9_897,
        48,
        3,
    )
    assert figures["codes_per_level"] == [162, 256, 256, 256]
    assert figures["prefixes_per_depth"] == [162, 6_996, 9_172, 9_897]


def test_the_published_index_goes_out_as_it_came_in(work: Path, tmp_path: Path, ilrec: Run) -> None:
    file = tmp_path / "again.json"
    assert ilrec("ids", "export", "--dataset", "Instruments", "--work", work, "--output", file).code == 0
    assert json.loads(file.read_text()) == json.loads((SHARED / "instruments" / "Instruments.index.json").read_text())


def test_the_published_index_is_resolved_under_another_name(work: Path, ilrec: Run) -> None:
    index = ["--index", SHARED / "instruments" / "Instruments.index.json", "--collisions", "resolve"]
    common = ["build-ids", "--dataset", "Instruments", "--work", work, "--json"]
    assert "choose another --name" in ilrec(*common, *index, "--name", "published", "--overwrite").one_line()
    figures = json.loads(ilrec(*common, *index, "--name", "resolved").out.splitlines()[-1])
    assert (figures["distinct_paths"], figures["collisions"]["moved_within_prefix"]) == (9_922, 9_922 - 9_897)
    assert figures["prefixes_per_depth"] == [162, 6_996, 9_172, 9_922]
    published = (
        artifacts.read(work / "Instruments" / "ids" / "published", "ids").table("item_ids")["tokens"].to_pylist()
    )
    resolved = artifacts.read(work / "Instruments" / "ids" / "resolved", "ids").table("item_ids")["tokens"].to_pylist()
    assert sum(a != b for a, b in zip(published, resolved, strict=True)) == 25


def test_real_items_that_share_a_prefix_are_more_alike_than_chance(tmp_path: Path, ilrec: Run) -> None:
    common = ["--dataset", "Industrial", "--work", tmp_path]
    ilrec("preprocess", *common, "--raw-dir", SHARED / "industrial")
    build = ["build-ids", *common, "-o", "levels=4", "-o", "codes=256", "--text", "title,description", "--json"]
    figures = json.loads(ilrec(*build).out.splitlines()[-1])
    assert figures["colliding_items"] == figures["ambiguous_targets"]["test"]["ambiguous"] == 0
    rows = {(row["of"], row["depth"]): row for row in figures["purity"]}
    for kind in ("brand", "neighbours"):  # brand is not among the text
        for depth in (1, 2):
            row = rows[kind, depth]
            assert row["share"] > 5 * row["high"] > 0, (kind, depth)


@pytest.mark.parametrize("deviation", [2.0, 6.0, 12.0])
def test_rewards_are_exact_on_the_real_trie(deviation: float, work: Path) -> None:
    from ilrec_cli.trie import ItemTrie

    codes = artifacts.read(work / "Instruments" / "ids" / "published", "ids").table("item_ids")["codes"].to_pylist()
    paths = [[*(1 + 256 * level + code for level, code in enumerate(row)), 0] for row in codes]
    trie = ItemTrie.build(paths)
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(2, len(paths), generator=generator, dtype=torch.float64) * deviation
    prob = score.softmax(1)
    nodes = torch.randint(len(trie), (3000,), generator=generator)
    nodes = nodes[~trie.is_leaf(nodes)]
    rows = torch.randint(2, (len(nodes),), generator=generator)
    tokens, mass = trie.child_mass(nodes, rows, prob)
    for node, row, token_C, mass_C in zip(nodes, rows, tokens, mass, strict=True):
        children = trie.children(node[None])[1][0]
        lo, hi = trie.range(children)
        exact = [
            score[row, trie.order[a:b]].logsumexp(0) for a, b in zip(lo[children >= 0], hi[children >= 0], strict=True)
        ]
        expected = torch.stack(exact).softmax(0)
        torch.testing.assert_close(mass_C[token_C >= 0], expected, rtol=0, atol=1e-9)


def test_industrial_goes_through_every_stage(tmp_path: Path, ilrec: Run) -> None:
    common = ["--dataset", "Industrial", "--work", tmp_path]
    out = ilrec("preprocess", *common, "--raw-dir", SHARED / "industrial").out
    for count in ("3,285", "3,541", "22,743"):
        assert count in out
    assert ilrec("build-ids", *common).code == 0
    cf = json.loads(ilrec("train-cf", *common, "--epochs", "12", "--batch-size", "64", "--json").out.splitlines()[-1])
    popularity = artifacts.read(tmp_path / "Industrial" / "cf" / "popularity" / "eval" / "test-full", "eval").json(
        "metrics.json"
    )
    assert cf["test"]["ndcg@10"] > 1.5 * popularity["metrics"]["ndcg@10"]
    tiny = [
        *TINY_LM,
        "--hidden-size",
        "32",
        "--epochs",
        "2",
        "--batch-size",
        "64",
        "--valid-users",
        "100",
        "--valid-beams",
        "10",
    ]
    for method in ("sft", "ilrec"):
        assert ilrec("train", *common, "--method", method, "--name", method, *tiny).code == 0
    result = ilrec("evaluate", *common, "--json")
    metrics = json.loads(result.out.splitlines()[-1])["metrics"]
    assert json.loads(result.out.splitlines()[-1])["events"] == 3_285
    assert {"sft", "ilrec", "popularity"} <= metrics.keys()
    assert all(0 <= value <= 1 for scores in metrics.values() for value in scores.values())
    assert ilrec("report", *common).code == 0
    shown = ilrec("recommend", *common, "--run", "ilrec", "--user", "0", "--k", "5")
    assert shown.code == 0, shown.err


def test_all_beauty_from_raw_reviews(tmp_path: Path, ilrec: Run) -> None:
    raw = ["--raw-dir", SHARED / "amazon2018-raw"]
    statistics = {}
    for repeats in ("first", "keep"):
        result = ilrec(
            "preprocess", "--dataset", "All_Beauty", "--work", tmp_path / repeats, *raw, "--repeats", repeats, "--json"
        )
        statistics[repeats] = json.loads(result.out.splitlines()[-1])
    counts = {repeats: (row["users"], row["items"], row["interactions"]) for repeats, row in statistics.items()}
    assert counts == {"first": (137, 24, 686), "keep": (961, 49, 5_084)}
    default = ilrec("preprocess", "--dataset", "All_Beauty", "--work", tmp_path / "default", *raw, "--json")
    assert json.loads(default.out.splitlines()[-1])["digest"] == statistics["first"]["digest"], (
        "repeats are dropped by default"
    )
    line = ilrec("build-ids", "--dataset", "All_Beauty", "--work", tmp_path / "first").one_line()
    assert "none of the 24 items has text" in line


def test_all_beauty_equals_a_brute_force_core(tmp_path: Path) -> None:
    import gzip
    from collections import Counter

    source = SHARED / "amazon2018-raw"
    rows = [json.loads(line) for line in gzip.decompress((source / "All_Beauty_5.json.gz").read_bytes()).splitlines()]
    ordered = sorted(enumerate(rows), key=lambda row: (row[1]["reviewerID"], row[1]["unixReviewTime"], row[0]))
    left = list(dict.fromkeys((row["reviewerID"], row["asin"]) for _, row in ordered))
    while True:
        users, items = Counter(u for u, _ in left), Counter(i for _, i in left)
        kept = [(u, i) for u, i in left if users[u] >= 5 and items[i] >= 5]
        if len(kept) == len(left):
            break
        left = kept
    cli.invoke(["preprocess", "--dataset", "beauty", "--work", str(tmp_path), "--raw-dir", str(source), "--quiet"])
    data = artifacts.read(tmp_path / "beauty" / "data", "data")
    names = [data.table(name)["raw_id"].to_pylist() for name in ("users", "items")]
    table = data.table("interactions").to_pydict()
    found = [(names[0][user], names[1][item]) for user, item in zip(table["user"], table["item"], strict=True)]
    assert found == left


def test_lastfm_candidates_keep_their_rows_and_their_lists(tmp_path: Path) -> None:
    cli.invoke(
        [
            "preprocess",
            "--dataset",
            "lastfm",
            "--work",
            str(tmp_path),
            "--raw-dir",
            str(SHARED / "lastfm-candidates"),
            "--quiet",
        ]
    )
    data = artifacts.read(tmp_path / "lastfm" / "data", "data")
    statistics = data.json("card.json")["statistics"]
    assert (statistics["validation_targets"], statistics["test_targets"], statistics["training_targets"]) == (
        2767,
        2495,
        0,
    )
    names = data.table("items")["raw_id"].to_pylist()
    rows = json.loads((SHARED / "lastfm-candidates" / "lastfm-test.json").read_text())
    users = data.table("users")["raw_id"].to_pylist()
    events = data.table("splits").to_pydict()
    sets = dict(zip(*data.table("candidates").to_pydict().values(), strict=True))
    sequences = data.table("sequences")["items"].to_pylist()
    for event, user, end in zip(events["event"], events["user"], events["end"], strict=True):
        if users[user].startswith("test-"):
            row = rows[int(users[user].split("-")[1]) - 1]
            assert [names[item] for item in sets[event]] == [name.strip() for name in row["itemList"]]
            assert names[sequences[user][end]] == row["trueSelection"].strip()
            assert [names[item] for item in sequences[user][:end]] == [
                name.strip() for name in row["historyList"].split("::")
            ]
