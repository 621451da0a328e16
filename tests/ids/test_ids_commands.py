"""build-ids, ids report and ids export by the command line: results, refusals, interruptions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, tree

from ilrec_cli import artifacts, cli
from ilrec_cli.ids._quantise import Job
from ilrec_cli.ids.rqkmeans import quantise

Run = Callable[..., Finished]


def toy(work: Path) -> list[Any]:
    return ["--dataset", "toy", "--work", work]


def paths(work: Path, name: str) -> dict[str, list[str]]:
    table = artifacts.read(work / "toy" / "ids" / name, "ids").table("item_ids")
    return dict(zip(table["raw_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))


def items_of(work: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = artifacts.read(work / "toy" / "data", "data").table("items").to_pylist()
    return found


def newer(work: Path, *extra: str) -> None:
    """The same shop again, with users and items that were not there."""
    cli.invoke(["preprocess", "--dataset", "toy", "--work", str(work), "--quiet", "--source", "synthetic", "-o", "users=150",
                "--user-k", "4", "--item-k", "1", *extra])  # fmt: skip


# -- rules for collisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["resolve", "keep", "suffix"])
def test_rules_of_own_identifiers(rule: str, own_world: Path, ilrec: Run) -> None:
    result = ilrec(
        "build-ids", *toy(own_world), "--collisions", rule, "-o", "codes=4", "-o", "levels=2", "--name", rule, "--json"
    )
    assert result.code == 0, result.err
    figures = json.loads(result.out.splitlines()[-1])
    assert figures["collisions"]["rule"] == rule
    assert figures["collisions"]["colliding_items_before"] > 0
    assert (figures["colliding_items"] == 0) == (rule != "keep")
    assert figures["ambiguous_targets"]["test"]["events"] == 120
    assert (figures["ambiguous_targets"]["test"]["ambiguous"] > 0) == (rule == "keep")
    assert {row["of"] for row in figures["purity"]} == {"brand", "category", "neighbours"}


def test_an_import_is_changed_only_under_another_name(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    index = tmp_path / "toy.index.json"
    rows = {item["source_id"]: [f"<a_{n % 5}>", f"<b_{max(n, 20)}>"] for n, item in enumerate(items_of(own_world))}
    index.write_text(json.dumps(rows))
    imported = ["build-ids", *toy(own_world), "--index", index]
    assert ilrec(*imported, "--name", "imported").code == 0
    for extra in ([], ["--overwrite"]):
        line = ilrec(*imported, "--name", "imported", "--collisions", "resolve", *extra).one_line()
        assert "choose another --name" in line
    assert ilrec(*imported, "--name", "resolved", "--collisions", "resolve", "--quiet").code == 0
    before, after = paths(own_world, "imported"), paths(own_world, "resolved")
    assert len(set(map(tuple, after.values()))) == len(after)
    assert [item for item in before if before[item] != after[item]] == list(before)[5:21], (
        "the first of a path keeps it"
    )
    assert {len(path) for path in after.values()} == {2}


def test_titles_are_text(own_world: Path, ilrec: Run) -> None:
    assert ilrec("build-ids", *toy(own_world), "--scheme", "title", "--name", "title").code == 0
    figures = artifacts.read(own_world / "toy" / "ids" / "title", "ids").json("quality.json")
    assert figures["text"] is True
    assert [path[0] for path in paths(own_world, "title").values()] == [item["title"] for item in items_of(own_world)]
    assert (
        "titles have no codes"
        in ilrec("build-ids", *toy(own_world), "--scheme", "title", "--collisions", "resolve").one_line()
    )
    assert "cannot hold them" in ilrec("ids", "export", *toy(own_world), "--ids", "title").one_line()


def test_presets_that_do_not_exist(own_world: Path, ilrec: Run) -> None:
    assert (
        "rqkmeans has no preset 'lcrec'; it has none"
        in ilrec("build-ids", *toy(own_world), "--preset", "lcrec").one_line()
    )


# -- a build that stops -----------------------------------------------------------------------------------------------


def stopping(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, *, saves: bool = True) -> list[list[str]]:
    """Let the scheme keep a checkpoint and then fail; what it found in its folder, call by call."""
    seen: list[list[str]] = []
    whole = quantise.fit

    def fit(vectors: Any, config: Any, rng: Any, job: Job) -> Any:
        assert job.checkpoints is not None
        seen.append(tree(job.checkpoints))
        job.log({"epoch": len(seen), "loss": 1.0})
        if saves:
            (job.checkpoints / "last.safetensors").write_bytes(b"place")
        if error is not None:
            raise error
        return whole(vectors, config, rng, job)

    monkeypatch.setattr(quantise, "fit", fit)
    return seen


def test_ctrl_c_keeps_the_checkpoint_and_resume_goes_on(
    own_world: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["build-ids", *toy(own_world), "--name", "long", "-o", "codes=8"]
    files = tree(own_world / "toy" / "ids")
    with monkeypatch.context() as patch:
        stopping(patch, KeyboardInterrupt())
        stopped = ilrec(*common)
        assert stopped.code == 130
        assert "Go on with --resume" in stopped.out
    assert [path for path in tree(own_world / "toy" / "ids") if path not in files] == [
        ".long.checkpoints", ".long.checkpoints/identity.json", ".long.checkpoints/last.safetensors", ".long.checkpoints/log.jsonl",
    ]  # fmt: skip
    line = ilrec(*common).one_line()
    assert "--resume" in line
    assert "--overwrite" in line
    line = ilrec(*common[:-2], "-o", "codes=4", "--resume").one_line()
    assert "--resume: -o codes is 4, the checkpoint has 8" in line
    with monkeypatch.context() as patch:
        seen = stopping(patch, None)
        assert ilrec(*common, "--resume").code == 0
    assert "last.safetensors" in seen[0], "the scheme found its place"
    ids = own_world / "toy" / "ids"
    assert not (ids / ".long.checkpoints").exists()
    assert [json.loads(line)["epoch"] for line in (ids / "long" / "log.jsonl").read_text().splitlines()] == [1]
    assert ilrec(*common, "--resume").code == 0, "finished already"


def test_overwrite_starts_again(own_world: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["build-ids", *toy(own_world), "--name", "long", "-o", "codes=8"]
    with monkeypatch.context() as patch:
        stopping(patch, KeyboardInterrupt())
        assert ilrec(*common).code == 130
    seen = stopping(monkeypatch, None)
    assert ilrec(*common, "--overwrite").code == 0
    assert seen == [["identity.json"]]


def test_a_build_that_fails_leaves_old_identifiers_and_nothing_else(
    own_world: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = paths(own_world, "text"), tree(own_world)
    stopping(monkeypatch, KeyboardInterrupt(), saves=False)
    assert ilrec("build-ids", *toy(own_world), "--name", "text", "--overwrite", "-o", "codes=4").code == 130
    assert tree(own_world) == files
    assert paths(own_world, "text") == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "there is no checkpoint"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--scheme", "title", "--resume"], "nothing to go on with"),
    ],
)
def test_resuming_nothing(flags: list[str], message: str, own_world: Path, ilrec: Run) -> None:
    files = tree(own_world)
    assert message in ilrec("build-ids", *toy(own_world), "--name", "new", *flags).one_line()
    assert tree(own_world) == files


def test_what_is_there_is_not_made_again(own_world: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stopping(monkeypatch, None)
    result = ilrec("build-ids", *toy(own_world), "--name", "text", "-o", "codes=16", "--json")
    assert "Already there" in result.out
    assert json.loads(result.out.splitlines()[-1])["colliding_items"] == 0
    assert not seen


# -- report -----------------------------------------------------------------------------------------------------------


def test_report_of_two_side_by_side(own_world: Path, ilrec: Run) -> None:
    ilrec("build-ids", *toy(own_world), "--name", "small", "-o", "codes=4", "-o", "levels=2", "--collisions", "keep")
    result = ilrec("ids", "report", *toy(own_world), "--ids", "text,small", "--json")
    assert result.code == 0, result.err
    *shown, last = result.out.splitlines()
    found = json.loads(last)["ids"]
    assert list(found) == ["text", "small"]
    small = found["small"]
    (line,) = [line for line in shown if line.startswith("items that collide")]
    assert line.split() == ["items", "that", "collide", "0", f"{small['colliding_items']:,}"]
    (line,) = [line for line in shown if line.startswith("ambiguous test targets")]
    assert f"{small['ambiguous_targets']['test']['ambiguous']} of 120" in line
    page = (own_world / "toy" / "ids-report.html").read_text()
    assert page.count("<svg") == 3
    for part in ("text", "small", "same brand, depth 1", "near neighbours inside, depth 1"):
        assert part in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons", ""
    )


def test_report_of_one_name_in_two_places(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    own, other = own_world / "toy" / "ids" / "text", tmp_path / "text"
    shutil.copytree(own, other)
    for names, expected in (
        (f"text,{other}", [str(own), str(other)]),
        (f"text,{own}", ["text"]),
    ):
        result = ilrec("ids", "report", *toy(own_world), "--ids", names, "--json")
        assert list(json.loads(result.out.splitlines()[-1])["ids"]) == expected


def test_report_takes_all_of_these_data_and_names_what_is_missing(own_world: Path, ilrec: Run) -> None:
    assert list(json.loads(ilrec("ids", "report", *toy(own_world), "--json").out.splitlines()[-1])["ids"]) == ["text"]
    assert "no item identifiers 'nope'" in ilrec("ids", "report", *toy(own_world), "--ids", "nope").one_line()
    newer(own_world)
    assert "no item identifiers of these data" in ilrec("ids", "report", *toy(own_world)).one_line()
    assert "belongs to" in ilrec("ids", "report", *toy(own_world), "--ids", "text").one_line()


# -- export -----------------------------------------------------------------------------------------------------------


def test_export_and_import_are_one_another(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    file = tmp_path / "out" / "toy.index.json"
    assert ilrec("ids", "export", *toy(own_world), "--output", file).code == 0
    assert "--overwrite" in ilrec("ids", "export", *toy(own_world), "--output", file).one_line()
    assert ilrec("build-ids", *toy(own_world), "--index", file, "--name", "again").code == 0
    assert paths(own_world, "again") == paths(own_world, "text")
    by_number = ilrec(
        "ids", "export", *toy(own_world), "--ids", "text", "--keys", "item", "--output", file, "--overwrite"
    )
    assert by_number.code == 0
    index = json.loads(file.read_text())
    assert [index[str(number)] for number in range(len(index))] == list(paths(own_world, "text").values())
