"""The grids of `reproduce`: complete, in settings that the commands take, shared where tables have a model in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reproducing import Shop, commands, grid, settings

from ilrec_cli import config as configs
from ilrec_cli import presets
from ilrec_cli.console import Console
from ilrec_cli.settings import Reproduce, Train
from ilrec_cli.stages import _grid, _reproduced, reproduce
from ilrec_cli.stages._recipe import Step
from ilrec_cli.stages._start import TAKEN


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


def test_a_default_written_out_is_the_same_run(tmp_path: Path) -> None:
    """Table 6's alpha = 0.8 and beta = 0.1 are ILRec as it is."""
    by_row = {cell.row: cell for cell in grid("table6", settings(tmp_path, "table6")).cells}
    ilrec = next(
        cell for cell in grid("table3", settings(tmp_path, "table3")).cells if cell.label.startswith("LC-Rec, ILRec")
    )
    names = {row: cell.steps[-2].name for row, cell in by_row.items()}
    assert names["alpha = 0.8"] == names["beta = 0.1"] == ilrec.steps[-2].name
    assert len(set(names.values())) == len(names) - 1


def test_tables_that_have_a_model_in_common_train_it_once(tmp_path: Path) -> None:
    """Tables 8 and 9 have k = 3 and k = 1 on Llama-3.1-8B in common, and the same figures in the paper."""
    trained = {
        name: {cell.row: cell.steps[-2].name for cell in grid(name, settings(tmp_path, name, scale="paper")).cells}
        for name in ("table8", "table9")
    }
    assert trained["table8"]["ILRec"] == trained["table9"]["Llama3.1-8B k = 3"]
    assert trained["table8"]["L_31"] == trained["table9"]["Llama3.1-8B k = 1"]
    assert trained["table8"]["L_30"] not in trained["table9"].values()


def test_a_dataset_that_is_named_keeps_its_settings_and_gets_no_others_figures(tmp_path: Path) -> None:
    arts = grid("table6", settings(tmp_path, "table6", scale="paper", dataset="Arts"))
    whole = grid("table6", settings(tmp_path, "table6", scale="paper"))
    assert arts.cells == [cell for cell in whole.cells if cell.dataset == "Arts"]
    games = grid("table4", settings(tmp_path, "table4", scale="paper", dataset="Games"))
    assert {cell.column for cell in games.cells} == {"Game"}
    assert all(_reproduced.published(games, cell) == {} for cell in games.cells), "Table 4 is of Instrument alone"


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


def test_raw_files_of_another_dataset_are_found_where_they_were_downloaded(tmp_path: Path) -> None:
    config = settings(tmp_path, "figure6", scale="small")
    table = grid("figure6", config)
    shop = reproduce._workshop(table, config, Shop(), Console.of(config))
    first, own = [step for step in table.cells[1].steps if step.argv[0] == "preprocess"]
    assert first.argv == ("preprocess", "--dataset", "Instruments")
    assert "--raw-dir" not in shop.arguments(first)
    raw = tmp_path / "Instruments" / "raw"
    (raw / "2018").mkdir(parents=True)
    assert shop.arguments(own)[-1] == str(raw / "2018")
    (raw / "mine.csv").touch()
    assert shop.arguments(own)[-1] == str(raw)
