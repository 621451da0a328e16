"""LC-Rec's tasks through the commands: what users said, mixtures, logs, resumption, defaults, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_LM, Finished, qwen2
from said_folder import raw_folder
from tokenizers_of_kinds import a_tokenizer

from ilrec_cli import artifacts, cli
from ilrec_cli.checkpoint import first_difference
from ilrec_cli.json_log import read_log
from ilrec_cli.stages import _inputs, _tasks

ALL = "next_item,text_to_item,item_to_text,fusion:50,item_search,preference"


@pytest.fixture(scope="module")
def said_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("said")
    raw, work = raw_folder(folder / "raw"), folder / "work"
    common = ["--dataset", "Instruments", "--work", str(work), "--quiet"]
    cli.invoke(["preprocess", *common, "--raw-dir", str(raw)])
    cli.invoke(["build-ids", *common, "--scheme", "lcrec-index", "-o", f"index={raw / 'Instruments.index.json'}"])
    cli.invoke(["train-cf", *common, "--name", "sasrec", "--epochs", "1", "-o", "hidden_size=16"])
    return work


def common(work: Path) -> list[str]:
    return ["--dataset", "Instruments", "--work", str(work)]


def test_what_users_said_is_kept_with_the_data_and_only_training_items_are_asked_for(said_world: Path) -> None:
    data = artifacts.read(said_world / "Instruments" / "data", "data")
    rows = data.table("said").to_pylist()
    assert len(rows) == 20
    assert data.json("card.json")["dropped"]["texts of users that are not there"] == 1
    assert data.json("card.json")["dropped"]["queries for items that are not there"] == 1
    sequences = data.table("sequences")["items"].to_pylist()
    texts = _tasks.texts_of(data)
    assert "secret" not in "".join(texts.query)
    _, user, end = _inputs.events(data, "train")
    search, likes = (_tasks._cases(task, data, user, end) for task in ("item_search", "preference"))
    assert len(search) == 18, "one asks for a held-out item, one for an unknown one"
    by_item = {(row["user"], row["item"]): row for row in rows}
    assert search.item.tolist() == [row["item"] for row in rows if row["item"] in sequences[row["user"]][:-2]]
    owners = [row["user"] for row in rows if row["item"] in sequences[row["user"]][:-2]]
    for place, owner in enumerate(owners):
        history = search.history.flat[search.history.start[place] :][: search.history.length[place]].tolist()
        assert history == sequences[owner][:-3][-20:]
        first, count = (part[place] for part in search.query)
        assert texts.query[first : first + count] == by_item[owner, search.item[place]]["queries"]
    for place, row in enumerate(rows):
        history = likes.history.flat[likes.history.start[place] :][: likes.history.length[place]].tolist()
        assert history == sequences[row["user"]][:-3][-20:]
        first, count = (part[place] for part in likes.preference)
        assert texts.preference[first : first + count] == row["preferences"]
    assert {len(row["preferences"]) for row in rows} == {0, 2}


def test_six_tasks_train_and_resume_to_the_same_bits(said_world: Path, ilrec: Callable[..., Finished]) -> None:
    flags = [*common(said_world), *TINY_LM, "--tasks", ALL, "--epochs", "2", "--batch-size", "64"]
    done = ilrec("train", *flags, "--method", "ilrec", "--name", "whole")
    assert done.code == 0, done.err
    assert "fusion 50, item_search 18, preference 10" in done.out
    assert "preference: 10 of 20 left out, without text" in done.out
    assert "text_to_item: 1 of" in done.out
    run = said_world / "Instruments" / "runs" / "whole" / "train"
    log = read_log(run / "log.jsonl")
    named = {name for row in log for name in row if name.startswith("ce_")}
    assert named == {f"ce_{name.partition(':')[0]}" for name in ALL.split(",")}
    kept = json.loads((run / "layout.json").read_text())
    assert len(kept["templates"]) == 17
    assert kept["templates"][0]["text"].startswith("An instruction follows.")
    assert {name: kept[name] for name in ("lead", "tail")} == {
        name: kept["templates"][0][name] for name in ("lead", "tail")
    }
    steps = max(row["step"] for row in log)
    for stop in (3, steps // 2 + 2):
        name = f"stopped-{stop}"
        flags_ = [*flags, "--method", "ilrec", "--name", name, "--save-every", "1"]
        stopped(flags_, stop)
        again = ilrec("train", *flags_, "--resume")
        assert again.code == 0, again.err
        weights = [
            (said_world / "Instruments" / "runs" / each / "train" / "model" / "model.safetensors").read_bytes()
            for each in ("whole", name)
        ]
        assert weights[0] == weights[1], stop


def test_a_run_with_other_wording_is_another_run(
    said_world: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The text of prompts is part of what a run is: it neither goes on in other words, nor counts as made in them."""
    from ilrec_cli.lm import templates

    flags = ["train", *common(said_world), *TINY_LM, "--tasks", "next_item:60", "--batch-size", "20"]
    stopped([*flags[1:], "--name", "worded", "--save-every", "1"], 2)
    assert ilrec(*flags, "--name", "done").code == 0
    run = said_world / "Instruments" / "runs" / "done" / "train"
    assert "wording" not in (run / "config.yaml").read_text()
    kept = artifacts.read(run, "run")
    assert kept.config["wording"] == kept.json("layout.json")["digest"]
    before = templates.every()
    other = {
        **before,
        "next_item": (before["next_item"][0]._replace(prompt="{history}, and then?"), *before["next_item"][1:]),
    }
    monkeypatch.setattr(templates, "every", lambda: other)
    line = ilrec(*flags, "--name", "worded", "--save-every", "1", "--resume").one_line()
    assert "--resume: wording is " in line
    assert "holds a run with other settings: wording is " in ilrec(*flags, "--name", "done").one_line()
    again = ["train", "--config", run / "config.yaml", "--work", said_world, "--name", "again"]
    assert ilrec(*again).code == 0, "settings alone, whatever the wording"
    onwards = [
        "train",
        *common(said_world),
        "--from",
        "done",
        *["--epochs", "1"],
        "--max-steps",
        "1",
        "--batch-size",
        "4",
    ]
    assert "its prompts had other words" in ilrec(*onwards, "--method", "sft", "--name", "mixed").one_line()
    assert ilrec(*onwards, "--method", "dpo", "--name", "pairs").code == 0, "prompts are the tokens of that run"
    pairs = artifacts.read(run.parents[1] / "pairs" / "train", "run")
    assert pairs.config["wording"] == pairs.json("layout.json")["digest"] == kept.config["wording"]
    assert first_difference({"seed": 0}, {"seed": 0, "wording": "x"})[0] == "", "of the first releases: not known"
    monkeypatch.setattr(templates, "every", lambda: before)
    assert ilrec(*flags, "--name", "worded", "--save-every", "1", "--resume").code == 0
    assert "Already trained" in ilrec(*flags, "--name", "done").out


def test_evaluation_under_every_prompt(said_world: Path, ilrec: Callable[..., Finished]) -> None:
    """Of the run with six tasks: one prompt, another one, and the mean over all of them."""
    flags = ["evaluate", *common(said_world), "--run", "whole", "--limit-users", "30", "--beams", "20"]
    whole = said_world / "Instruments" / "runs" / "whole"
    if not (whole / "train").exists():
        assert ilrec("train", *common(said_world), *TINY_LM, "--tasks", ALL, "--name", "whole").code == 0
    assert ilrec(*flags).code == 0
    assert ilrec(*flags, "--template", "3").code == 0
    every = ilrec(*flags, "--all-templates", "--json")
    assert every.code == 0, every.err
    assert "prompt by prompt" in every.out
    kept = json.loads((whole / "eval" / "test-full-beam20-vocab-mean17-n30-s0.json").read_text())
    assert (kept["protocol"]["templates"], kept["protocol"]["aggregation"]) == (17, "mean")
    single = [json.loads((whole / "eval" / name / "metrics.json").read_text()) for name in kept["by_template"]]
    assert len(single) == 17
    assert [each["protocol"].get("template", 0) for each in single] == list(range(17))
    hits = [each["metrics"]["hit@20"] for each in single]
    scores = {
        tuple(artifacts.read(whole / "eval" / name, "eval").table("rankings")["scores"][0].as_py())
        for name in kept["by_template"]
    }
    assert len(scores) == 17, "prompts matter"
    assert kept["metrics"]["hit@20"] == pytest.approx(sum(hits) / 17, rel=1e-12)
    assert kept["least_and_most"]["hit@20"] == [min(hits), max(hits)]
    assert json.loads(every.out.splitlines()[-1])["metrics"]["whole"]["hit@20"] == kept["metrics"]["hit@20"]
    mean, first = "whole:test-full-beam20-vocab-mean17-n30-s0", "whole:test-full-beam20-vocab-n30-s0"
    compared = ilrec("compare", *common(said_world), first, mean, "--metrics", "hit@10,ndcg@5", "--force", "--json")
    assert compared.code == 0, compared.err
    assert "seeds" not in compared.out, "prompts are no seeds"
    for each in json.loads(compared.out.splitlines()[-1])["comparisons"]:
        assert each["value"] == pytest.approx(kept["metrics"][each["metric"]], abs=1e-12)
        assert each["base"] == pytest.approx(single[0]["metrics"][each["metric"]], abs=1e-12)
    assert "different protocols: templates" in ilrec("compare", *common(said_world), first, mean).one_line()
    reported = ilrec("report", *common(said_world), "--output", said_world / "report" / "page.html", "--json")
    assert reported.code == 0, reported.err
    (found,) = [
        each
        for each in json.loads(reported.out.splitlines()[-1])["metrics"].values()
        if "whole (beam 20, vocab)" in each
    ]
    assert found["whole (beam 20, vocab, mean of 17 templates)"] == kept["metrics"]
    few = ilrec(*flags, "--beams", "3", "--limit-users", "2", "--all-templates")
    assert few.code == 0, few.err
    assert "hit@10" not in few.out
    assert "'whole' was trained with prompts 0 to 16" in ilrec(*flags, "--template", "17").one_line()
    assert "exclude each other" in ilrec(*flags, "--template", "3", "--all-templates").one_line()


def stopped(flags: list[str], after: int) -> None:
    """A run that is told to stop in the middle of a step."""
    import os
    import signal

    from ilrec_cli.lm.steps import Updater

    plain, calls = Updater.update, []

    def counting(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *arguments, **named)

    Updater.update = counting  # type: ignore[method-assign]
    try:
        assert cli._guarded(["train", *flags]) != 0
    finally:
        Updater.update = plain  # type: ignore[method-assign]


def test_defaults(said_world: Path, world: Path) -> None:
    from ilrec_cli import config as configs
    from ilrec_cli.settings import Train
    from ilrec_cli.stages import _task

    def decided(work: Path, dataset: str, **values: Any) -> tuple[str, tuple[str, ...]]:
        settings = configs.build(Train, {"dataset": dataset, "work": str(work), **values}, "train")
        found = _task.decided(settings, rewards=False).settings
        return found.targets, found.tasks

    assert decided(said_world, "Instruments") == ("all", ())
    assert decided(said_world, "Instruments", targets="last") == ("last", ())
    assert decided(said_world, "Instruments", tasks=["fusion"]) == ("last", ("fusion",))
    assert decided(said_world, "Instruments", backbone="some/model") == (
        "last", ("next_item", "text_to_item", "item_to_text", "fusion:0.15", "item_search", "preference"),
    )  # fmt: skip
    in_general = ("next_item", "text_to_item", "item_to_text", "fusion:0.15")
    assert decided(world, "toy", backbone="some/model")[1] == in_general
    # A softmax over identifiers has no words to answer with.
    assert decided(world, "toy", backbone="some/model", vocab_scope="ids")[1] == ("next_item", "text_to_item")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--tasks", "nxt_item"], "--tasks: there is no 'nxt_item'"),
        (["--tasks", "item_search"], "--tasks item_search: these data have nothing that users said"),
        (["--tasks", "fusion", "--targets", "all"], "--tasks needs a prompt for every target"),
        (["--tasks", "fusion", "--vocab-scope", "ids"], "--vocab-scope ids: the task fusion is answered in words"),
        (["--tasks", "fusion", "--max-length", "40"], "--tasks fusion: no example is left"),
        (["--chat"], "--chat: the tokenizer of this backbone has no chat template"),
    ],
)
def test_what_cannot_be_is_refused(world: Path, ilrec: Callable[..., Finished], flags: list[str], why: str) -> None:
    result = ilrec("train", "--dataset", "toy", "--work", world, "--ids", "text", *TINY_LM, "--name", "no", *flags)
    assert why in result.one_line()
    assert not (world / "toy" / "runs" / "no").exists()


def test_a_user_file_of_another_form_is_refused(tmp_path: Path, ilrec: Callable[..., Finished]) -> None:
    raw = raw_folder(tmp_path / "raw")
    for content, why in (
        ({"user_explicit_preference": []}, "expected an object with user_explicit_preference"),
        ({"user_explicit_preference": {"0": "likes"}}, "texts of user '0' are 'likes', expected a list"),
        ({"user_vague_intention": {"train": {"0": {"querys": []}}}}, "the intention of user '0'"),
    ):
        (raw / "Instruments.user.json").write_text(json.dumps(content))
        result = ilrec("preprocess", *common(tmp_path / "work"), "--raw-dir", raw)
        assert why in result.one_line()


def test_epochs_show_other_templates_and_the_same_ones_again(said_world: Path) -> None:
    """Through the artifacts, as `train` does it."""
    from ilrec_cli import config as configs
    from ilrec_cli.settings import Train
    from ilrec_cli.stages import _backbones, _job, _models, _task

    settings = configs.build(
        Train, {"dataset": "Instruments", "work": str(said_world), "tasks": ALL.split(",")}, "train"
    )
    task = _task.decided(settings, rewards=False)
    data, ids = task.parents["data"], task.parents["ids"]
    opened = _backbones.equipped(_backbones.open_backbone(task.settings, data), task.settings, ids)
    rows, _ = _job.make_rows(task.settings, data, _models.catalogue(ids, opened.tokenizer), opened.tokenizer)
    assert rows is not None
    assert len(rows) == len(rows.at(1)) == sum(rows.wanted)
    templates = [rows.at(epoch).chosen.template_B for epoch in (0, 1, 1)]
    assert (templates[1] == templates[2]).all()
    assert (templates[0] != templates[1]).mean() > 0.8
    assert rows.at(1).rewarded(np.arange(len(rows))) < rows.at(1).supervised(np.arange(len(rows)))


def test_a_plan_counts_what_is_trained(said_world: Path) -> None:
    from ilrec_cli import config as configs
    from ilrec_cli.batching import epoch_batches
    from ilrec_cli.settings import Plan
    from ilrec_cli.stages import _backbones, _plan, _task

    values = {
        "dataset": "Instruments",
        "work": str(said_world),
        "method": "sft",
        "tasks": ALL.split(","),
        "batch_size": 24,
        "epochs": 1,
    }
    task = _task.decided(configs.build(Plan, values, "plan"), rewards=False)
    opened = _backbones.equipped(_plan.open_shapes(task), task.settings, task.parents["ids"])
    examples = _plan.open_examples(task, opened)
    found = _plan.traffic(examples, task.settings, 0)
    batches = [examples.batch(rows) for rows in epoch_batches(examples.lengths(), 24, 0, 0)]
    assert found.steps == len(batches)
    assert found.tokens == sum(int(batch.mask_BS.sum()) for batch in batches)
    assert found.padded == sum(batch.input_BS.numel() for batch in batches)
    assert found.supervised == sum(len(batch.target_N) for batch in batches)


def test_an_instruct_model_with_a_padded_vocabulary_in_its_own_chat_template(
    own_world: Path, tmp_path: Path, ilrec: Callable[..., Finished]
) -> None:
    """A pretrained model takes LC-Rec's tasks by default; what is decoded is what was trained."""
    tok = a_tokenizer("padded", [], chat=True)
    model = qwen2(vocabulary=len(tok) + 20, layers=2, tie_word_embeddings=True, initializer_range=0.02)
    model.save_pretrained(tmp_path / "base")
    tok.save_pretrained(tmp_path / "base")
    flags = ["--dataset", "toy", "--work", own_world, "--quiet"]
    done = ilrec("train", *flags, "--ids", "text", "--backbone", tmp_path / "base", "--chat", "--tuning", "lora", "--name", "chatty",
                 *TINY_LM, "--max-steps", "2", "--method", "ilrec", "--cf", "sasrec")  # fmt: skip
    assert done.code == 0, done.err
    run = artifacts.read(own_world / "toy" / "runs" / "chatty" / "train", "run")
    assert run.config["tasks"] == ["next_item", "text_to_item", "item_to_text", "fusion:0.15"]
    kept = run.json("layout.json")
    assert (kept["chat"], len(kept["templates"])) == (True, 17)
    assert kept["templates"][4]["text"].startswith(f"{tok.bos_token}<|user|>\nSomeone went through these items")
    assert kept["templates"][4]["text"].endswith("</s>\n<|assistant|>\n")
    for command in (["evaluate", "--template", "4"], ["recommend", "--history", _first_item(own_world)]):
        found = ilrec(
            command[0],
            *flags,
            "--run",
            "chatty",
            *command[1:],
            *(["--limit-users", "4"] if command[0] == "evaluate" else []),
        )
        assert found.code == 0, found.err
    exported = ilrec("export", *flags, "--run", "chatty", "--merge", "--output", tmp_path / "out")
    assert exported.code == 0, exported.err
    assert json.loads((tmp_path / "out" / "layout.json").read_text())["templates"] == kept["templates"]


def _first_item(world: Path) -> str:
    return str(artifacts.read(world / "toy" / "data", "data").table("items")["raw_id"][0].as_py())
