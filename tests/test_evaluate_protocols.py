"""What evaluations may be asked for, taken up again and compared: refusals, kills, beams, protocols in common."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished

from ilrec_cli import artifacts, cli
from ilrec_cli.stages import _chunks, _evaluation

Run = Callable[..., Finished]
FEW = ["--limit-users", "12"]


@pytest.fixture(scope="module")
def own(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the trained world for this file."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("protocols") / "world"))


def common(work: Path) -> list[str]:
    return ["--dataset", "toy", "--work", str(work)]


def folder_of(work: Path, protocol: str, run: str = "runs/ilrec") -> Path:
    return work / "toy" / run / "eval" / protocol


def metrics(work: Path, protocol: str, run: str = "runs/ilrec") -> dict[str, Any]:
    return artifacts.read(folder_of(work, protocol, run), "eval").json("metrics.json")


def killed(arguments: list[str], chunk: int) -> None:
    """Run a command in a process of its own, which is killed when it has ranked this chunk."""
    child = os.fork()
    if child == 0:
        try:
            save = _chunks.save

            def until(where: Path, index: int, *rest: Any) -> None:
                if index == chunk:
                    os.kill(os.getpid(), signal.SIGKILL)
                save(where, index, *rest)

            _chunks.save = until
            cli._guarded(arguments)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_killed_overwrite_goes_on_with_its_own_chunks_and_no_others(
    own: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_chunks, "CHUNK", 16)
    plain = ["evaluate", *common(own), "--run", "ilrec", "--batch-size", "16", "--beams", "5"]
    again, folder = [*plain, "--overwrite"], folder_of(own, "test-full-beam5-vocab")
    ranked: list[int] = []
    save = _chunks.save
    monkeypatch.setattr(_chunks, "save", lambda where, index, *rest: (save(where, index, *rest), ranked.append(index)))

    def ranked_by(arguments: list[str]) -> list[int]:
        ranked.clear()
        result = ilrec(*arguments)
        assert result.code == 0, result.err
        left = 8 - len(ranked)
        assert (f"{left} of 8 chunks are there already" in result.out) == (0 < left < 8)
        assert not _chunks.scratch_of(folder).exists()
        return list(ranked)

    killed(plain, 2)
    assert ranked_by(again) == list(range(8)), "ranked before anybody asked for it to be ranked again"
    whole = (folder / "rankings.parquet").read_bytes()
    killed(again, 3)
    assert (folder / "rankings.parquet").read_bytes() == whole, "until its successor is there"
    assert "evaluated already" in ilrec(*plain).out
    assert ranked_by(again) == [3, 4, 5, 6, 7]
    assert (folder / "rankings.parquet").read_bytes() == whole
    assert ranked_by(again) == list(range(8)), "whoever asks once more gets it once more"
    killed(again, 5)
    (folder / "provenance.json").write_text("{}")  # as if somebody had made the result anew meanwhile
    assert ranked_by(again) == list(range(8))
    killed(again, 4)
    monkeypatch.setattr(_evaluation, "provenance", lambda: {"packages": {"torch": "another"}})
    assert ranked_by(again) == list(range(8)), "another version may round otherwise"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--exit-layer", "9"], "'ilrec' has layers 1 to 3"),
        (["--ks", "30"], "Raise --beams to 30"),
        (["--ks", "10", "--beams", "9"], "Raise --beams to 10"),
        (["--seen-items", "removed"], "'ilrec' is a language model"),
        (["--ks", "100000"], "--ks 100000: the data have"),
    ],
)
def test_what_a_later_model_cannot_do_is_said_before_the_first_is_ranked(
    own: Path, ilrec: Run, flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_evaluation, "run", lambda *_: 1 / 0)
    assert message in ilrec("evaluate", *common(own), "--run", "sasrec,ilrec", *flags).one_line()


def test_a_run_without_its_identifiers_is_refused_before_the_first_is_ranked(
    own: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_evaluation, "run", lambda *_: 1 / 0)
    ids = own / "toy" / "ids" / "text"
    ids.rename(ids.with_name(".away"))
    try:
        assert "no longer holds" in ilrec("evaluate", *common(own), "--run", "sasrec,ilrec").one_line()
    finally:
        ids.with_name(".away").rename(ids)


def test_advice_on_memory_is_that_of_the_model(own: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("ilrec_cli.stages._rankers.rank_events", refused)
    line = ilrec("evaluate", *common(own), "--run", "sasrec", *FEW, "--overwrite").one_line()
    assert "sasrec: memory does not suffice" in line
    assert "--batch-size" not in line
    assert "--device" in line


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_a_damaged_result_is_made_again(own: Path, ilrec: Run, flags: list[str]) -> None:
    """`compare` and `report` say: re-run ilrec evaluate."""
    arguments = ["evaluate", *common(own), "--run", "sft", "--limit-users", "5", "--beams", "5"]
    assert ilrec(*arguments).code == 0
    folder = folder_of(own, "test-full-beam5-vocab-n5-s0", "runs/sft")
    whole = (folder / "metrics.json").read_bytes()
    (folder / "metrics.json").write_text("{")
    (folder / "provenance.json").unlink()
    again = ilrec(*arguments, *flags)
    assert again.code == 0, again.err
    assert (folder / "metrics.json").read_bytes() == whole


def test_a_model_named_twice_is_evaluated_once(own: Path, ilrec: Run) -> None:
    result = ilrec("evaluate", *common(own), "--run", "sft,sft", *FEW, "--json")
    assert list(json.loads(result.out.splitlines()[-1])["metrics"]) == ["sft"]


@pytest.mark.parametrize("flags", [[], FEW, ["--split", "valid"], ["--beams", "7"]])
def test_the_next_command_compares_what_was_evaluated(own: Path, ilrec: Run, flags: list[str]) -> None:
    """Whatever else the models were evaluated under; and two models of one name, each as compare takes it."""
    named = own / "toy" / "runs" / "sasrec"
    shutil.copytree(own / "toy" / "runs" / "sft" / "train", named / "train", dirs_exist_ok=True)
    for models in ("sft,ilrec", f"sasrec,{named}"):
        ilrec("evaluate", *common(own), "--run", models)
        evaluated = ilrec("evaluate", *common(own), "--run", models, *flags, "--json")
        found = json.loads(evaluated.out.splitlines()[-1])
        (line,) = (line for line in evaluated.out.splitlines() if line.startswith("Is it real: ilrec "))
        compared = ilrec(*line.removeprefix("Is it real: ilrec ").split(), "--metrics", "ndcg@5", "--json")
        assert compared.code == 0, compared.err
        (row,) = json.loads(compared.out.splitlines()[-1])["comparisons"]
        assert [row["base"], row["value"]] == pytest.approx([each["ndcg@5"] for each in found["metrics"].values()])
        assert json.loads(compared.out.splitlines()[-1])["events"] == found["events"]
    shutil.rmtree(named)


def test_few_beams_answer_for_short_lists_alone(own: Path, ilrec: Run) -> None:
    result = ilrec("evaluate", *common(own), "--run", "ilrec", *FEW, "--beams", "6", "--exact", "4", "--json")
    assert result.code == 0, result.err
    assert "no metrics beyond @6" in result.out
    assert "hit@5" in result.out.splitlines()[1] + result.out.splitlines()[2]
    assert "hit@10" not in result.out.rsplit("{", 1)[0].split("Next:")[0]
    found = metrics(own, "test-full-beam6-vocab-n12-s0")
    assert found["ks"] == [1, 5]
    assert {name.partition("@")[2] for name in (*found["metrics"], *found["lists"])} == {"1", "5"}
    exact = metrics(own, "test-full-exact-beam6-vocab-n4-s0")
    assert exact["ks"] == [1, 5, 10, 20], "every item is scored"
    assert list(exact["beam_recall"]) == ["1", "5"]
    assert {name.partition("@")[2] for name in exact["of_the_search"]} == {"1", "5"}
    layers = ilrec("evaluate", *common(own), "--run", "ilrec", *FEW, "--beams", "6", "--exit-layer", "all")
    assert layers.code == 0, layers.err
    both = ilrec("evaluate", *common(own), "--run", "ilrec,sasrec", *FEW, "--beams", "6")
    assert "hit@20" in both.out, "a collaborative model has them"
    report = ilrec("report", *common(own))
    assert report.code == 0, report.err


def test_metrics_that_meant_nothing_are_made_again(own: Path, ilrec: Run) -> None:
    """As they were written before: hit@20 of five beams."""
    arguments = ["evaluate", *common(own), "--run", "sft", "--limit-users", "6", "--beams", "5"]
    assert ilrec(*arguments).code == 0
    folder = folder_of(own, "test-full-beam5-vocab-n6-s0", "runs/sft")
    old = artifacts.read(folder, "eval")
    with artifacts.create(folder, kind="eval", config=old.config, seed=0, parents={}) as aside:
        shutil.copytree(folder, aside, dirs_exist_ok=True)
        artifacts.write_json(aside / "metrics.json", {**old.json("metrics.json"), "ks": [1, 5, 10, 20]})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "parents": old.manifest["parents"]}))
    assert "evaluated already" not in ilrec(*arguments).out
    assert metrics(own, folder.name, "runs/sft")["ks"] == [1, 5]


@pytest.fixture(scope="module")
def several(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ilrec under the defaults and with five beams, sft with five and with four beams, popularity of a few users."""
    work = Path(shutil.copytree(trained, tmp_path_factory.mktemp("several") / "world"))
    for run, *flags in (
        ("ilrec",), ("ilrec", "--beams", "5"), ("sft", "--beams", "5"), ("sft", "--beams", "4", "--limit-users", "9"),
        ("popularity", *FEW), ("sasrec",),
    ):  # fmt: skip
        cli.invoke(["evaluate", *common(work), "--quiet", "--run", run, *flags])
    shutil.rmtree(folder_of(work, "test-full", "cf/popularity"))  # written by train-cf
    return work


def test_compare_takes_a_protocol_that_both_have(several: Path, ilrec: Run) -> None:
    arguments = ["compare", *common(several)]
    result = ilrec(*arguments, "ilrec", "sft", "--metrics", "hit@5", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out.splitlines()[-1])["protocol"]["beams"] == 5, (
        "not the defaults, which sft does not have"
    )
    assert "test-full-beam5-vocab: 120 events" in result.out
    found = ilrec(*arguments, "sft", "sasrec", "ilrec", "--metrics", "hit@5", "--json")
    assert json.loads(found.out.splitlines()[-1])["protocol"]["beams"] == 5
    usual = ilrec(*arguments, "sasrec", "ilrec", "--json").out
    assert "test-full: 120 events" in usual


def test_compare_does_not_offer_force_where_it_cannot_help(several: Path, ilrec: Run) -> None:
    line = ilrec("compare", *common(several), "popularity", "sasrec").one_line()
    assert "'popularity' has 12 events, 'sasrec' 120, not the same ones (limit_users 12 and -" in line
    assert "--force" not in line
    line = ilrec("compare", *common(several), "ilrec:test-full-beam20-vocab", "sft:test-full-beam5-vocab").one_line()
    assert "--force" in line


def test_compare_says_how_to_get_longer_lists(several: Path, ilrec: Run) -> None:
    arguments = ["compare", *common(several), "--metrics"]
    needs = ilrec(*arguments, "hit@50", "ilrec", "sasrec").one_line()
    assert "has lists of 20; metrics at 50 need: ilrec evaluate" in needs
    assert needs.endswith("--run ilrec --ks 50 --beams 50")
    assert ilrec(*arguments, "hit@50", "sasrec", "ilrec").one_line().endswith("--run sasrec --ks 50")
    few = ilrec(*arguments, "hit@10", "ilrec", "sft").one_line()
    assert few.endswith("--run ilrec --beams 10"), "five beams, whatever the lists hold"


def test_other_batches_give_the_same_items_but_for_scores_that_are_nearly_equal(own: Path, ilrec: Run) -> None:
    def lists(size: int) -> list[dict[str, Any]]:
        flags = ["--run", "ilrec", "--beams", "8", "--batch-size", str(size), "--overwrite"]
        assert ilrec("evaluate", *common(own), *flags).code == 0
        done = artifacts.read(folder_of(own, "test-full-beam8-vocab"), "eval")
        return list(done.table("rankings").to_pylist())

    for one, other in zip(lists(64), lists(7), strict=True):
        assert (one["event"], one["target"]) == (other["event"], other["target"])
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
        scores = dict(zip(other["items"], other["scores"], strict=True))
        for item, score, place in zip(one["items"], one["scores"], other["items"], strict=True):
            assert item == place or abs(scores.get(item, other["scores"][-1]) - score) < 1e-5


def documented() -> list[list[str]]:
    """Every command line of the documentation that begins with torchrun and is complete."""
    pages = [path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parents[1] / "docs").glob("*.md"))]
    lines = re.findall(r"torchrun (--standalone [^`#|\n]*)", "\n".join(pages))
    return [line.split() for line in lines]


def test_documented_launches_reach_the_command() -> None:
    """torchrun reads --run, and nearly any flag, as its own unless it is told where they end."""
    from torch.distributed.run import get_args_parser

    assert any("--run" in line for line in documented())
    for line in documented():
        found = get_args_parser().parse_args(line)
        assert (found.nproc_per_node, found.module, found.training_script) == ("2", True, "ilrec_cli"), line
        assert found.training_script_args == line[line.index("ilrec_cli") + 1 :]


@pytest.mark.soak
def test_the_documented_launch_gives_the_bytes_of_one_process(own: Path, ilrec: Run) -> None:
    (line,) = [line for line in documented() if "--run" in line]
    line[line.index("--dataset") + 1 :] = ["toy", "--run", "ilrec", "--work", str(own), *FEW, "--device", "cpu"]
    folder = folder_of(own, "test-full-beam20-vocab-n12-s0")
    assert ilrec("evaluate", *common(own), "--run", "ilrec", *FEW, "--batch-size", "4", "--overwrite").code == 0
    alone = [(folder / name).read_bytes() for name in ("rankings.parquet", "metrics.json")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *line, "--batch-size", "4", "--overwrite"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]
    assert log[-1]["processes"] == 2
    assert [(folder / name).read_bytes() for name in ("rankings.parquet", "metrics.json")] == alone
    assert done.stdout.count("ilrec: 12 events in") == 1
