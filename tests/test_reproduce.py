"""`reproduce`: grids are complete, plans are what is run, cells resume, one failure leaves the rest, tables say what cells say."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ilrec_cli import artifacts, cli, presets
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.settings import Reproduce, Train
from ilrec_cli.stages import _cells, _grid, _hours, _reproduced, reproduce
from ilrec_cli.stages._recipe import Step
from ilrec_cli.stages._start import TAKEN

KINDS = {"preprocess": "data", "build-ids": "ids", "train-cf": "cf", "train": "run"}


class Shop:
    """Stands for the commands: writes what they would write, remembers what it was asked, fails where it is told to."""

    def __init__(self, titles: bool = True) -> None:
        self.asked: list[list[str]] = []
        self.broken = ""
        self.error: type[BaseException] = RuntimeError
        self.titles = titles
        self.version = 0

    def __call__(self, arguments: Sequence[str]) -> dict[str, Any]:
        argv = list(arguments)
        self.asked.append(argv)
        if self.broken and re.search(self.broken, " ".join(argv)):
            raise self.error("out of memory")
        flags = dict(zip(argv[1::2], argv[2::2], strict=False))
        home = Path(flags["--work"]) / flags["--dataset"]
        if argv[0] == "evaluate":
            return _evaluated(flags["--run"])
        place = {"preprocess": "data", "build-ids": f"ids/{flags.get('--name')}", "train-cf": f"cf/{flags.get('--name')}/train",
                 "train": f"runs/{flags.get('--name')}/train"}[argv[0]]  # fmt: skip
        parents = {} if argv[0] == "preprocess" else {"data": artifacts.read(home / "data", "data")}
        if "--from" in flags:
            parents["from"] = artifacts.read(home / "runs" / flags["--from"] / "train", "run")
        self._write(home / place, argv[0], argv, parents)
        return {}

    def _write(self, path: Path, command: str, argv: list[str], parents: dict[str, Artifact]) -> None:
        with artifacts.create(path, kind=KINDS[command], config={}, seed=0, parents=parents) as aside:
            artifacts.write_json(aside / "said.json", {"argv": argv, "version": self.version})
            if command == "preprocess":
                text = ["A" if self.titles else ""]
                rows = {name: ["x"] for name in ("raw_id", "source_id", "description", "brand")}
                artifacts.write_table(aside, "items", {"item": [0], "title": text, "categories": [[]], **rows})
            if command == "train":
                total = {"seconds": 7200.0, "epochs": 5, "generated": 30}
                artifacts.write_json(
                    aside / "cost.json", {"before": [], "phases": [{"making_seconds": 1.0}], "total": total}
                )
                lines = [{"step": step, "ce_layer_1": 3.0 / step, "ce_layer_2": 2.0 / step} for step in (1, 2)]
                artifacts.write_text(aside / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _evaluated(name: str) -> dict[str, Any]:
    """Figures that differ from run to run."""
    value = round(int.from_bytes(name.encode()[-16:]) % 9973 / 1e5, 6)
    metrics = {f"{kind}@{k}": value + k / 1e3 for kind in ("hit", "ndcg") for k in (1, 5, 10)}
    rules = {"split": "test", "candidates": "full catalogue", "seen_items": "ranked", "search": "beams", "beams": 20,
             "normalize": "vocab", "dtype": "float32"}  # fmt: skip
    around = {metric: [each - 0.01, each + 0.01] for metric, each in metrics.items()}
    return {"events": 9, "metrics": {name: metrics}, "protocol": {name: rules}, "intervals": {name: around}}


def settings(work: Path, *tables: str, **more: Any) -> Reproduce:
    return Reproduce(tables=tables, work=work, quiet=True, **more)


def grid(name: str, config: Reproduce) -> _grid.Table:
    return _grid.filled(_grid.declared(name, config), config)


def commands(shop: Shop, which: str) -> list[list[str]]:
    return [argv for argv in shop.asked if argv[0] == which]


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", _grid.names())
def test_every_cell_has_commands_or_a_reason(name: str, scale: Any, tmp_path: Path) -> None:
    """Names of cells differ; of those without commands, a line says why; every command's settings were checked."""
    table = grid(name, settings(tmp_path, name, scale=scale))
    assert table.cells
    assert len({cell.name for cell in table.cells}) == len(table.cells)
    for cell in table.cells:
        assert bool(cell.steps) != bool(cell.why), cell
        if cell.steps:
            assert cell.steps[0].argv[0] == "preprocess"
            assert cell.steps[-1].argv[0] == "evaluate"
            assert all(step.argv[0] in table.scale["hours"] for step in cell.steps)
        else:  # settings that exclude each other are a mistake of the grid, not a cell that cannot be
            assert cell.why == table.scale["backbones"]["Llama3.1-8B"].get("why"), cell
            assert (name, scale) == ("table9", "small")


@pytest.mark.parametrize("name", _grid.names())
def test_every_row_can_be_asked_for_by_name(name: str, tmp_path: Path) -> None:
    """`--rows A,B`: so a name has no comma."""
    every = list(_grid.declared(name, settings(tmp_path, name)).grid["rows"])
    config = configs.build(Reproduce, {"tables": name, "rows": ",".join(every)}, "test")
    assert _grid.declared(name, config).grid["rows"].keys() == set(config.rows)
    assert "--rows" in reproduce._again(name, config, config.rows)


def _asked(step: Step) -> Train:
    """The settings of a training as its command line has them."""
    values: dict[str, Any] = {"options": {}}
    for flag, value in zip(step.argv[1:], [*step.argv[2:], "--"], strict=True):
        if flag == "-o":
            values["options"] |= configs.parse_pairs([value])
        elif flag.startswith("--"):
            values[flag[2:].replace("-", "_")] = True if value.startswith("-") else value
    return configs.build(Train, presets.under(Train, values), "test")


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", ["table1", "table5", "table7", "figure6"])
def test_what_starts_from_a_run_asks_for_nothing_that_the_run_has_otherwise(
    name: str, scale: Any, tmp_path: Path
) -> None:
    """`train --from` would refuse it, after the start was trained."""
    steps = [step for cell in grid(name, settings(tmp_path, name, scale=scale)).cells for step in cell.steps]
    trained = {step.name: _asked(step) for step in steps if step.argv[0] == "train"}
    children = [each for each in trained.values() if each.from_ is not None]
    assert children
    defaults = {field.name: field.default for field in configs.fields(Train)}
    for child in children:
        for key in TAKEN:
            assert getattr(child, key) in (defaults[key], getattr(trained[str(child.from_)], key)), (child.method, key)


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(node, dict):
        return {key: each for name in node for key, each in _leaves(node[name], (*path, name)).items()}
    if isinstance(node, list):
        return {(*path, place): each for place, each in enumerate(node)}
    return {path: node}


@pytest.mark.parametrize("name", [name for name in _grid.names() if name.startswith("table")])
def test_every_figure_of_the_paper_stands_beside_one_cell(name: str, tmp_path: Path) -> None:
    """At the paper's scale: all that tables.json prints of a table is reached, each by one row, and nothing else is."""
    table = grid(name, settings(tmp_path, name, scale="paper"))
    reached: list[float] = []
    for cell in table.cells:
        reached += [value for value in _reproduced.published(table, cell).values() if not isinstance(value, str)]
    printed = [value for value in _leaves(_grid.published()[name]["rows"]).values() if not isinstance(value, str)]
    assert sorted(reached) == sorted(printed)


@pytest.mark.realdata
def test_the_paper_is_carried_over_as_it_is() -> None:
    shared = Path(os.environ.get("ILREC_SHARED_DATA", "")).parent / "paper" / "tables.json"
    if not shared.is_file():
        pytest.skip("the paper's tables are not here")
    found = _grid.published()
    assert "2602.17410" in found.pop("source")
    assert found == json.loads(shared.read_text())


def test_what_cells_share_is_made_once_and_a_second_call_makes_nothing(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3")
    reproduce.run(config, shop)
    rows = len(grid("table3", config).grid["rows"])
    assert len(commands(shop, "preprocess")) == len(commands(shop, "train-cf")) == 1
    assert len(commands(shop, "build-ids")) == 3  # codes, titles, the encoder that grounds texts
    assert len(commands(shop, "train")) == len(commands(shop, "evaluate")) == 2 * rows
    shop.asked.clear()
    reproduce.run(config, shop)
    assert not shop.asked


def test_tables_share_runs_and_children_start_from_one_run(tmp_path: Path) -> None:
    shop = Shop()
    reproduce.run(settings(tmp_path, "table1", "table3", "table10"), shop)
    trained = [argv[argv.index("--name") + 1] for argv in commands(shop, "train")]
    assert len(set(trained)) == len(trained)
    starts = [argv[argv.index("--from") + 1] for argv in commands(shop, "train") if "--from" in argv]
    assert len(starts) == 6
    assert len(set(starts)) == 2  # one for each paradigm
    assert all("sft" in name and name in trained for name in starts)


def test_a_default_written_out_is_the_same_run(tmp_path: Path) -> None:
    """Table 6's alpha = 0.8 and beta = 0.1 are ILRec as it is."""
    by_row = {cell.row: cell for cell in grid("table6", settings(tmp_path, "table6")).cells}
    ilrec = next(
        cell for cell in grid("table3", settings(tmp_path, "table3")).cells if cell.label.startswith("LC-Rec, ILRec")
    )
    names = {row: cell.steps[-2].name for row, cell in by_row.items()}
    assert names["alpha = 0.8"] == names["beta = 0.1"] == ilrec.steps[-2].name
    assert len(set(names.values())) == len(names) - 1


def test_a_killed_call_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3")
    shop.broken, shop.error = r"evaluate .*lc-rec-ilrec", KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        reproduce.run(config, shop)
    before = [shlex.join(argv) for argv in shop.asked[:-1]]
    shop.asked.clear()
    shop.broken = ""
    result = reproduce.run(config, shop)
    after = [shlex.join(argv) for argv in shop.asked]
    assert not set(before) & set(after)
    assert not result["failed"]
    assert len(list((tmp_path / "reproduce" / "table3-tiny" / "cells").iterdir())) == 18


def test_an_unfinished_training_is_resumed(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3", rows=("SFT",))
    cell = grid("table3", config).cells[0]
    checkpoint = tmp_path / str(cell.steps[-2].output) / "checkpoints" / "last.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    reproduce.run(config, shop)
    asked = {argv[argv.index("--name") + 1]: argv for argv in commands(shop, "train")}
    assert "--resume" in asked[cell.steps[-2].name]
    assert all("--resume" not in argv for name, argv in asked.items() if name != cell.steps[-2].name)


def test_one_failure_leaves_the_others_going(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3")
    shop.broken = r"train .*table3-wo-cpd .*codes-"
    result = reproduce.run(config, shop)
    assert result["failed"] == ["table3: lc-rec-wo-cpd-shop-s0"]
    found = json.loads((tmp_path / "reproduce" / "table3-tiny" / "results.json").read_text())
    assert found["done"] == 17
    (why,) = found["failed"].values()
    log = Path(re.search(r"log: (.*)\)", why)[1])  # type: ignore[index]
    assert "RuntimeError: out of memory" in log.read_text()
    shop.broken = ""
    shop.asked.clear()
    assert not reproduce.run(config, shop)["failed"]
    assert [argv[0] for argv in shop.asked] == ["train", "evaluate"]


def test_what_a_broken_start_would_carry_is_not_tried_again(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table5")
    shop.broken = r"train .*--method sft"
    result = reproduce.run(config, shop)
    assert len(result["failed"]) == 3  # ILRec starts from nothing
    assert len([argv for argv in commands(shop, "train") if "sft" in argv]) == 1


def test_the_command_ends_with_1_when_a_cell_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    monkeypatch.setattr(cli, "invoke", shop)
    argv = ["reproduce", "table3", "--work", str(tmp_path), "--quiet"]
    shop.broken = "evaluate .*lc-rec-sft"
    assert cli._guarded(argv) == 1
    shop.broken = ""
    assert cli._guarded(argv) == 0


def test_cells_made_from_other_data_are_made_again(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3", rows=("SFT",))
    reproduce.run(config, shop)
    shop.version = 1
    shop(["preprocess", "--dataset", "Shop", "--work", str(tmp_path)])
    shop.asked.clear()
    reproduce.run(config, shop)
    assert [argv[0] for argv in shop.asked].count("evaluate") == 2
    assert all("--overwrite" in argv for argv in commands(shop, "train") + commands(shop, "build-ids"))


def test_the_plan_lists_the_commands_that_run_and_runs_none(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table1")
    plan = reproduce.run(settings(tmp_path, "table1", dry_run=True), shop)["plan"]["table1"]
    assert not shop.asked
    assert set(plan["cells"].values()) == {"missing"}
    reproduce.run(config, shop)
    planned = [shlex.split(line)[1:] for line in plan["commands"]]
    assert sorted(planned) == sorted(shop.asked)
    again = reproduce.run(settings(tmp_path, "table1", dry_run=True), shop)["plan"]["table1"]
    assert set(again["cells"].values()) == {"done"}
    assert again["commands"] == []
    assert again["hours"] == 0


def test_hours_are_measured_where_a_cell_of_the_kind_is_finished(tmp_path: Path) -> None:
    table = grid("table3", settings(tmp_path, "table3"))
    train = next(step for step in table.cells[0].steps if step.argv[0] == "train")
    assert _hours.of(train, table.scale, _hours.measured(tmp_path)) == (table.scale["hours"]["train"], True)
    for number, seconds in enumerate((3600, 7200, 36000)):
        cells = tmp_path / "reproduce" / "table3-tiny" / "cells"
        cells.mkdir(parents=True, exist_ok=True)
        (cells / f"{number}.json").write_text(json.dumps({"seconds": {train.kind: seconds}}))
    assert _hours.of(train, table.scale, _hours.measured(tmp_path)) == (2.0, False)


def _printed(page: str) -> list[float]:
    """Every first number of a cell of the page's tables that is ours."""
    found = []
    for line in page.splitlines():
        if line.startswith("|") and "---" not in line and not line.startswith("|  |"):
            found += [float(text.split()[0]) for text in line.strip("| ").split(" | ")[1:] if "[" in text]
    return found


def test_numbers_on_the_page_are_those_of_the_cells(tmp_path: Path) -> None:
    shop = Shop()
    reproduce.run(settings(tmp_path, "table3"), shop)
    folder = tmp_path / "reproduce" / "table3-tiny"
    cells = [json.loads(path.read_text()) for path in (folder / "cells").iterdir()]
    wanted = sorted(round(cell["metrics"][name], 4) for cell in cells for name in ("hit@10", "ndcg@10"))
    page = (folder / "report.md").read_text()
    assert sorted(_printed(page)) == pytest.approx(wanted)
    assert "0.1143" in page  # the paper's ILRec under LC-Rec on Instrument
    assert "not comparable" in page


def test_seeds_are_a_mean_with_a_deviation(tmp_path: Path) -> None:
    import numpy as np

    shop = Shop()
    reproduce.run(settings(tmp_path, "table3", rows=("SFT",), seeds=(0, 1, 2)), shop)
    folder = tmp_path / "reproduce" / "table3-tiny"
    rows = [each for each in _read(folder / "results.json")["rows"] if each["row"] == "SFT"]
    (row,) = [each for each in rows if each["paradigm"] == "LC-Rec"]
    values = [cell["metrics"]["hit@10"] for cell in map(_read, (folder / "cells").glob("lc-rec*"))]
    assert row["figures"]["hit@10"]["ours"] == pytest.approx(np.mean(values))
    assert row["figures"]["hit@10"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in (folder / "report.md").read_text()


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_bigrec_without_titles_runs_on_other_data_or_says_why(tmp_path: Path) -> None:
    shop = Shop(titles=False)
    config = settings(tmp_path, "table3", rows=("SFT",), dataset="Instruments")
    reproduce.run(config, shop)
    folder = tmp_path / "reproduce" / "table3-tiny-instruments"
    reasons = _read(folder / "results.json")["cannot_be"]
    assert len(reasons) == 9
    assert all(label.startswith("BIGRec") and "has no titles" in why for label, why in reasons.items())
    assert "cannot be" in (folder / "report.md").read_text()
    shop.titles = True
    shop(["preprocess", "--dataset", "Industrial_and_Scientific", "--work", str(tmp_path)])
    reproduce.run(config, shop)
    page = (folder / "report.md").read_text()
    assert "## BIGRec, Industrial_and_Scientific" in page
    assert "Industrial_and_Scientific stands where the paper has Instrument" in page


def test_layers_that_a_model_lacks_are_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, "table8")
    assert all(cell.why is None for cell in grid("table8", config).cells)
    scales = _grid.configs.read_yaml(_grid.FOLDER / "scales.yaml")
    scales["tiny"]["backbones"]["Llama3.1-8B"]["train"]["n_layers"] = 8
    read_yaml = _grid.configs.read_yaml
    monkeypatch.setattr(_grid.configs, "read_yaml", lambda path: scales if path.stem == "scales" else read_yaml(path))
    why = {cell.row: cell.why for cell in grid("table8", config).cells}
    assert "the model has 8 layers" in str(why["Shallow Layers"])
    assert why["ILRec"] is None


def test_costs_curves_and_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shop = Shop()
    reproduce.run(settings(tmp_path, "table5", "figure2", "figure5"), shop)
    page = (tmp_path / "reproduce" / "table5-tiny" / "report.md").read_text()
    assert "| ILRec | 2.00 | 4.20 | 1.00 | 1.00 | 5 | 5 | 1 | 0 | 30 |" in page
    assert "| S-DPO | 2.00 | 7.25 | 1.00 | 0.58 | 5 | 8(5 + 3) | 1 | 1 |" in page
    for name in ("figure2", "figure5"):
        folder = tmp_path / "reproduce" / f"{name}-tiny"
        assert (folder / f"{name}.png").stat().st_size > 5_000
        assert (folder / f"{name}.pdf").is_file()
        assert "published" not in (folder / "report.md").read_text().split("How to read it")[0]
        assert "ours stand alone" in (folder / "report.md").read_text()
    (cell,) = (tmp_path / "reproduce" / "figure2-tiny" / "cells").glob("*sft*")
    assert _read(cell)["curves"] == {"1": [[1, 3.0], [2, 1.5]], "2": [[1, 2.0], [2, 1.0]]}


def test_the_papers_scale_is_launched_on_eight_devices(tmp_path: Path) -> None:
    lines = reproduce.run(settings(tmp_path, "table3", scale="paper", dry_run=True), Shop())["plan"]["table3"][
        "commands"
    ]
    train = next(line for line in lines if " train " in line and "lc-rec-ilrec" in line)
    assert train.startswith("accelerate launch --multi_gpu --num_processes 8 -m ilrec_cli train --dataset Instruments")
    assert "--shard" in train
    assert next(line for line in lines if "preprocess" in line).startswith("ilrec preprocess")


def test_raw_folders_and_named_identifiers_reach_the_commands(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "Instruments").mkdir(parents=True)
    config = settings(tmp_path / "work", "table3", dataset="Instruments", raw_dir=raw, ids="published", rows=("SFT",))
    shop = Shop()
    reproduce.run(config, shop)
    (argv,) = commands(shop, "preprocess")
    assert argv[argv.index("--raw-dir") + 1] == str(raw / "Instruments")
    train = next(argv for argv in commands(shop, "train") if "lc-rec-sft" in " ".join(argv))
    assert train[train.index("--ids") + 1] == "published"


def test_commands_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's command line; the last line of JSON counts; failures and Ctrl-C are told apart."""
    log, asked, code = tmp_path / "log", list[list[str]](), 0
    output = '{"step": 1}\nnoise\n{"events": 3}\nmore noise\n'

    class Process:
        def __init__(self, argv: list[str], stdout: Any, stderr: Any):
            asked.append(argv[1:])
            stdout.write(output)

        def wait(self) -> int:
            return code

    monkeypatch.setattr(_cells.subprocess, "Popen", Process)
    launch = ["accelerate", "launch", "--num_processes", "8", "-m", "ilrec_cli"]
    run = _cells.isolated(launch)
    assert run(["train", "--seed", "0"], log) == {"events": 3}
    run(["preprocess"], log)
    assert asked == [
        ["-m", "accelerate.commands.launch", *launch[2:], "train", "--seed", "0", "--json"],
        ["-m", "ilrec_cli", "preprocess", "--json"],
    ]
    code = 2
    with pytest.raises(_cells.CellError, match="exit code 2: more noise"):
        run(["train"], log)
    output = "error: no item identifiers\nCalledProcessError: Command returned 2\n"
    with pytest.raises(_cells.CellError, match="exit code 2: no item identifiers"):
        run(["train"], log)
    code, output = 130, ""
    with pytest.raises(KeyboardInterrupt):
        run(["train"], log)


def test_a_command_that_is_asked_to_stop_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does then, a step and a checkpoint of a large model, may take longer than the quarter of a second that
    `subprocess.run` leaves it."""
    script = (
        "import pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "def save(*_):\n    time.sleep(0.6)\n    (folder / 'saved').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "(folder / 'began').touch()\n"
        "time.sleep(20)\n"
    )
    popen = subprocess.Popen

    def process(argv: list[str], **files: Any) -> Any:
        return popen([sys.executable, "-c", script, str(tmp_path)], **files)

    def interrupt() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_cells.subprocess, "Popen", process)
    Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        _cells.isolated([])(["train"], tmp_path / "log")
    assert (tmp_path / "saved").exists()


def test_other_rows_stay_on_the_page(tmp_path: Path) -> None:
    shop = Shop()
    reproduce.run(settings(tmp_path, "table4"), shop)
    page = tmp_path / "reproduce" / "table4-tiny" / "report.md"
    before = page.read_text()
    shop.asked.clear()
    reproduce.run(settings(tmp_path, "table4", rows=("BPR",)), shop)
    assert page.read_text() == before
    assert not shop.asked


def test_mistakes_are_one_line(tmp_path: Path, ilrec: Any) -> None:
    assert "name a table" in ilrec("reproduce").one_line()
    assert "Did you mean 'table3'" in ilrec("reproduce", "tabel3", "--work", tmp_path).one_line()
    assert "has no row" in ilrec("reproduce", "table3", "--rows", "nonsense", "--work", tmp_path).one_line()
    assert not list(tmp_path.iterdir())


def test_a_damaged_cell_is_made_again(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3", rows=("SFT",))
    reproduce.run(config, shop)
    path = next((tmp_path / "reproduce" / "table3-tiny" / "cells").iterdir())
    path.write_text(path.read_text()[:50])
    shop.asked.clear()
    reproduce.run(config, shop)
    assert [argv[0] for argv in shop.asked] == ["evaluate"]
    assert _read(path)["version"] == _cells.VERSION
