"""Recommender: the lists of evaluation, original ids at both ends, and what it does with odd requests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilrec_cli import Recommender, artifacts, cli
from ilrec_cli.errors import UserError
from ilrec_cli.stages import _recommender
from ilrec_cli.stages._recommender import Recommendation


@pytest.fixture(scope="module")
def sft(trained: Path) -> Recommender:
    return Recommender.load(trained / "toy" / "runs" / "sft")


@pytest.fixture(scope="module")
def sasrec(trained: Path) -> Recommender:
    return Recommender.load("sasrec", dataset="toy", work=trained)


@pytest.fixture(scope="module")
def evaluations(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the world, for models and evaluations that others need not meet."""
    work = Path(shutil.copytree(trained, tmp_path_factory.mktemp("own") / "world"))
    common = ["--dataset", "toy", "--work", str(work), "--quiet"]
    cli.invoke(["train-cf", *common, "--model", "bpr", "--name", "bpr", "--epochs", "1", "-o", "embedding_size=8"])
    return work


def agree(found: list[Recommendation], items: list[str], scores: list[float]) -> None:
    """The same items in the same order, up to those whose scores differ by less than 1e-5."""
    assert len(found) == len(items)
    np.testing.assert_allclose([each.score for each in found], scores, rtol=0, atol=1e-4)
    by_item = dict(zip(items, scores, strict=True))
    for each, item, score in zip(found, items, scores, strict=True):
        if each.item != item:
            assert abs(by_item.get(each.item, min(scores)) - score) < 1e-5


def evaluated(work: Path, folder: str, *flags: str) -> list[dict[str, Any]]:
    kind, name, protocol = folder.split("/")
    cli.invoke(["evaluate", "--dataset", "toy", "--work", str(work), "--quiet", "--run", name, *flags])
    table = artifacts.read(work / "toy" / kind / name / "eval" / protocol, "eval").table("rankings")
    return list(table.to_pylist())


@pytest.mark.parametrize("folder", ["runs/sft/test-full-beam20-vocab", "cf/sasrec/test-full", "cf/bpr/test-full"])
def test_lists_are_those_of_evaluation(evaluations: Path, folder: str) -> None:
    """Every test event of the world: the history before the target, seen items shown."""
    events = evaluated(evaluations, folder)
    recommender = Recommender.load(evaluations / "toy" / Path(folder).parent)
    histories = [recommender.history(recommender.user(event["user"], ""))[:-1] for event in events]
    lists = recommender.recommend(histories, 20, hide_seen=False, users=[event["user"] for event in events])
    assert len(lists) == len(events) > 100
    for found, event in zip(lists, events, strict=True):
        agree(found, event["items"], event["scores"])


def test_hidden_items_are_those_of_evaluation_without_seen_items(evaluations: Path, sasrec: Recommender) -> None:
    """Also those that lie further back than a model looks."""
    events = evaluated(evaluations, "cf/sasrec/test-full-unseen", "--seen-items", "removed")
    histories = [sasrec.history(sasrec.user(event["user"], ""))[:-1] for event in events]
    for found, event in zip(sasrec.recommend(histories, 20), events, strict=True):
        agree(found, event["items"], event["scores"])


@pytest.mark.parametrize("name", ["sft", "sasrec"])
def test_k_items_come_out_as_long_as_there_are_so_many(name: str, request: pytest.FixtureRequest) -> None:
    recommender: Recommender = request.getfixturevalue(name)
    left = recommender.raw_ids[100:107]
    seen = [raw for raw in recommender.raw_ids if raw not in left]
    (found,) = recommender.recommend([seen], 7)
    assert sorted(each.item for each in found) == left
    (found,) = recommender.recommend([seen], 50, deny=left[:2])
    assert sorted(each.item for each in found) == left[2:]
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert recommender.recommend([recommender.raw_ids], 3) == [[]]
    (found,) = recommender.recommend([seen[:1]], 40)
    assert len({each.item for each in found}) == 40


@pytest.mark.parametrize("name", ["sft", "sasrec"])
def test_more_items_than_there_are(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything comes out, in a search no wider than the catalogue."""
    recommender: Recommender = request.getfixturevalue(name)
    histories = [recommender.history(user)[:4] for user in range(2)]
    every = len(recommender.raw_ids)
    listed = recommender.recommend(histories, 10**9, hide_seen=False)
    assert [{each.item for each in found} for found in listed] == [set(recommender.raw_ids)] * 2
    monkeypatch.setattr(_recommender, "SEARCH_CELLS", every**2)  # one history at a time
    alone = recommender.recommend(histories, every, hide_seen=False)
    for one, other in zip(listed, alone, strict=True):
        agree(one, [each.item for each in other], [each.score for each in other])
    monkeypatch.setattr(_recommender, "MOST_BEAMS", 100)
    if name == "sasrec":
        assert len(recommender.recommend(histories, 101)[0]) == 101
        return
    with pytest.raises(UserError, match=f"history 0: k is {every}; the search of a language model takes at most 100"):
        recommender.recommend(histories, 10**9)
    wide = Recommender(replace(recommender.config, beams=5_000))
    with pytest.raises(UserError, match="--beams is 5,000"):
        wide.recommend(histories, 5)


@pytest.mark.parametrize("name", ["sft", "sasrec"])
def test_allow_and_deny(name: str, request: pytest.FixtureRequest) -> None:
    recommender: Recommender = request.getfixturevalue(name)
    history, some = recommender.history(0), recommender.raw_ids[:5]
    (found,) = recommender.recommend([history], 5, allow=[*some, some[0]], hide_seen=False)
    assert sorted(each.item for each in found) == some
    scores = {each.item: each.score for each in found}
    (found,) = recommender.recommend([history], 5, allow=some, deny=some[:2], hide_seen=False)
    assert {each.item: each.score for each in found} == pytest.approx({raw: scores[raw] for raw in some[2:]}, abs=1e-4)
    assert recommender.recommend([history], 5, allow=[]) == [[]]
    titles = dict(zip(recommender.raw_ids, recommender.titles, strict=True))
    assert all(each.title == titles[each.item] for each in found)


def test_unknown_ids_and_empty_histories(sft: Recommender) -> None:
    known = sft.raw_ids[:2]
    with pytest.raises(UserError, match=r"history 1: item 'no' is not among the \d+ items"):
        sft.recommend([known, [known[0], "no"]])
    with pytest.raises(UserError, match="history 0: the history is empty"):
        sft.recommend([[]])
    with pytest.raises(UserError, match="allow: item 'no'"):
        sft.recommend([known], allow=["no"])
    with pytest.raises(UserError, match="deny: item 'no'"):
        sft.recommend([known], deny=["no"])
    with pytest.raises(UserError, match="users: user 'no'"):
        sft.recommend([known], users=["no"])
    with pytest.raises(UserError, match="k is 0"):
        sft.recommend([known], 0)
    with pytest.raises(TypeError, match="list of lists"):
        sft.recommend(known)  # type: ignore[arg-type]
    lists = sft.recommend([["no", *known], [], ["no"], known], 3, unknown="skip", deny=["no"])
    assert [len(found) for found in lists] == [3, 0, 0, 3]
    agree(lists[0], [each.item for each in lists[3]], [each.score for each in lists[3]])
    assert sft.recommend([]) == []


def test_a_policy_that_does_not_exist_is_not_taken_for_another(sft: Recommender) -> None:
    with pytest.raises(ValueError, match="unknown is 'ignore', expected one of"):
        sft.recommend([[sft.raw_ids[0]]], unknown="ignore")  # type: ignore[arg-type]


def test_only_the_end_of_a_long_history_counts(sft: Recommender) -> None:
    long = [sft.raw_ids[n % 90] for n in range(sft.max_history * 3 + 5)]
    cut = sft.recommend([long, long[-sft.max_history :]], 10, hide_seen=False)
    agree(cut[0], [each.item for each in cut[1]], [each.score for each in cut[1]])
    (hidden,) = sft.recommend([long], 10)
    assert not {each.item for each in hidden} & set(long)


def test_a_list_does_not_depend_on_its_companions(sft: Recommender) -> None:
    """Other k, other lists and other lengths in one batch; more items than beams."""
    queries = [
        sft.query(sft.history(0), 3),
        sft.query(sft.history(1)[:2], 25),
        sft.query(sft.history(2), 5, allow=np.arange(50, 60)),
        sft.query(sft.history(3)[:1], 1, hide_seen=False, deny=np.arange(30)),
    ]
    for together, query in zip(sft.answer(queries), queries, strict=True):
        (alone,) = sft.answer([query])
        assert len(together) == query.k
        agree(together, [each.item for each in alone], [each.score for each in alone])


def test_many_threads_get_what_one_gets(sft: Recommender) -> None:
    histories = [sft.history(user)[:5] for user in range(12)]
    alone = [sft.recommend([history], 5)[0] for history in histories]
    found: dict[int, list[Recommendation]] = {}

    def ask(row: int) -> None:
        found[row] = sft.recommend([histories[row]], 5)[0]

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[row] for row in range(12)] == alone


def test_loading(trained: Path, sft: Recommender) -> None:
    train = Recommender.load(trained / "toy" / "runs" / "sft" / "train", beams=5)
    assert train.model.digest == sft.model.digest
    with pytest.raises(UserError, match="no trained model at"):
        Recommender.load(trained / "toy" / "runs" / "none")
    card = sft.card()
    assert card["run"] == "sft"
    assert card["items"] == len(sft.raw_ids)
    assert str(trained) not in str(card)


def test_the_package_has_it_and_stays_light() -> None:
    code = (
        "import sys, ilrec_cli; assert 'torch' not in sys.modules; ilrec_cli.Recommender; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
