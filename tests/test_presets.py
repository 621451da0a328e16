"""Presets of train: the rows of the paper's tables and the originals' settings, checked against design tables in code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import TINY_LM, Finished

from ilrec_cli import config as configs
from ilrec_cli import plugins, presets
from ilrec_cli.errors import UserError
from ilrec_cli.methods import ilrec as method
from ilrec_cli.methods.ilrec.layers import resolve_layers
from ilrec_cli.settings import Train

METHODS = plugins.names("methods")
EVERY = [(name, preset) for name in METHODS for preset in presets.known(plugins.load("methods", name))]
DEPTH = 32  # of Llama-3.1-8B, whose layers the paper's tables name


def train(preset: str, **values: Any) -> Train:
    return configs.build(Train, presets.under(Train, {"dataset": "d", "preset": preset, **values}), preset)


def options(preset: str) -> method.Config:
    return configs.build(method.Config, train(preset).options, preset)


@pytest.mark.parametrize(("name", "preset"), EVERY)
def test_every_preset_is_a_configuration_with_layers_that_exist(name: str, preset: str) -> None:
    plugin = plugins.load("methods", name)
    settings = train(preset, method=name)
    found = configs.build(plugin.Config, settings.options, preset)
    assert presets.known(plugin)[preset].about
    if hasattr(found, "layers"):
        resolve_layers(found.layers, DEPTH)


def test_every_value_of_the_files_has_a_source_or_is_a_row_of_a_table() -> None:
    """A line that sets something says where it is from; rows of tables say so in their description."""
    root = Path(plugins.__file__).parent / "methods"
    shared = [line for line in (root / "presets.yaml").read_text().splitlines() if line.startswith("  ")]
    bare = [line for line in shared if "#" not in line and not line.strip().startswith(("about:", "preset:"))]
    assert not bare
    for name, preset in presets.known(method).items():
        assert name.startswith(("paper", "lc-rec", "bigrec")) or preset.about.startswith(("Table ", "Figure ")), name


# Section 8 of the design: rows of Table 3 and Figure 5 in the symbols of the method.
TERMS = {
    "table3-sft": {"beta": 0, "lambda_cpd": 0, "mu_crr": 0},
    "table3-wo-cpo": {"beta": 0},
    "table3-wo-cpd": {"lambda_cpd": 0},
    "table3-wo-crr": {"mu_crr": 0},
    "table3-wo-cpo-cpd": {"beta": 0, "lambda_cpd": 0},
    "table3-wo-cns": {"negatives_from": "final"},
    "table3-fl-cpo": {"negatives_from": "final", "lambda_cpd": 0, "mu_crr": 0},
    "table3-il-cpo": {"lambda_cpd": 0, "mu_crr": 0},
    "figure5-k0": {"negatives_from": "final", "lambda_cpd": 0},
    "table6-instruments": {"alpha": 0.8, "beta": 0.1},
    "table6-arts": {"alpha": 1.0, "beta": 0.05},
    "table10-mean": {"ensemble": "mean"},
    "table10-variance": {"ensemble": "variance"},
    "table10-entropy": {"ensemble": "entropy"},
    "table10-max-prob": {"ensemble": "max_prob"},
}
LAYERS = {
    "table8-consecutive": (29, 30, 31), "table8-medium": (24, 25, 26), "table8-shallow": (19, 20, 21),
    "table8-l31": (31,), "table8-l30": (30,), "table8-l29": (29,), "paper-8b": (29, 30, 31),
}  # fmt: skip


@pytest.mark.parametrize("preset", TERMS)
def test_a_row_changes_what_the_design_says_and_nothing_else(preset: str) -> None:
    default = configs.as_dict(method.Config())
    assert configs.as_dict(options(preset)) == default | TERMS[preset]


@pytest.mark.parametrize("preset", LAYERS)
def test_a_row_chooses_the_papers_layers(preset: str) -> None:
    found = options(preset)
    assert resolve_layers(found.layers, DEPTH) == LAYERS[preset]
    assert configs.as_dict(found) == configs.as_dict(method.Config()) | {"layers": found.layers}


def test_the_other_layer_rows() -> None:
    assert resolve_layers(options("paper-3b").layers, 28) == (25, 26, 27)  # Table 9: best at k = 3
    assert resolve_layers(options("paper-1b").layers, 16) == (14, 15)  # k = 2
    drawn = {resolve_layers(options("table8-non-consecutive").layers, DEPTH, seed) for seed in range(30)}
    assert {layer for layers in drawn for layer in layers} == set(range(24, 32))
    assert all(len(layers) == 3 for layers in drawn)


def test_no_row_is_left_out() -> None:
    rows = {name for name in presets.known(method) if name.startswith(("table", "figure"))}
    assert rows == {*TERMS, *LAYERS, "table8-non-consecutive"} - {"paper-8b"}


# Protocols 1.5 and 2 of the design.
LC_REC = {
    "tuning": "full", "learning_rate": 5e-5, "schedule": "cosine", "warmup": 0.01, "weight_decay": 0.01, "batch_size": 128,
    "dtype": "bfloat16", "gradient_checkpointing": True, "epochs": 5, "targets": "last",
}  # fmt: skip
LC_REC_LORA = LC_REC | {
    "tuning": "lora", "lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05, "learning_rate": 1e-4,
    "lora_targets": ("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "down_proj", "up_proj"),
}  # fmt: skip
BIGREC = {
    "tuning": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "lora_targets": ("q_proj", "v_proj"),
    "learning_rate": 1e-4, "schedule": "linear", "weight_decay": 0.0, "batch_size": 128, "patience": 5, "epochs": 5,
    "prompt": "input",
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("lc-rec", LC_REC),
        ("lc-rec-lora", LC_REC_LORA),
        ("bigrec", BIGREC),
        ("paper-8b", LC_REC | {"backbone": "meta-llama/Llama-3.1-8B"}),
        ("paper-3b", LC_REC | {"backbone": "meta-llama/Llama-3.2-3B"}),
        ("paper-1b", LC_REC | {"backbone": "meta-llama/Llama-3.2-1B"}),
        ("paper-8b,bigrec", BIGREC | {"backbone": "meta-llama/Llama-3.1-8B"}),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_settings_of_the_originals(name: str, preset: str, expected: dict[str, Any]) -> None:
    settings = train(preset, method=name)
    assert {key: getattr(settings, key) for key in expected} == expected


# Protocols 4, 5 and 7 of the design; what a script leaves out is the default of transformers' Trainer.
ORIGINALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "s_dpo": (
        {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.1, "learning_rate": 1e-5, "schedule": "cosine", "warmup": 0.05,
         "weight_decay": 0.0, "clip": 0.3, "batch_size": 128, "epochs": 5},
        {"negatives": 3, "beta": 1.0, "pair_epochs": 3, "pair_learning_rate": 1e-5},
    ),
    "sprec": (
        {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "learning_rate": 3e-4, "schedule": "linear",
         "weight_decay": 0.0, "clip": 1.0, "batch_size": 16, "epochs": 4},
        {"iterations": 5, "beta": 0.1, "round_epochs": 1, "pair_epochs": 1, "round_learning_rate": 2e-5,
         "pair_learning_rate": 2e-5},
    ),
    "grpo": (
        {"tuning": "full", "learning_rate": 3e-4, "schedule": "cosine", "warmup": 0.03, "weight_decay": 0.0, "clip": 0.3,
         "batch_size": 64, "epochs": 10, "patience": 3, "valid_beams": 50},
        {"group": 16, "rollouts": "beam", "exact": 1.0, "rank": 1.0, "beta_kl": 1e-3, "policy_epochs": 2,
         "policy_learning_rate": 1e-5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ORIGINALS)
def test_preference_methods_have_their_originals_settings(name: str) -> None:
    settings, (expected, options) = train("original", method=name), ORIGINALS[name]
    assert {key: getattr(settings, key) for key in expected} == expected
    found = configs.as_dict(configs.build(plugins.load("methods", name).Config, settings.options, name))
    assert {key: found[key] for key in options} == options
    if name == "sprec":
        assert int(4096 // 16 * 4 * settings.warmup) == 20


def test_bigrecs_warm_up_is_twenty_steps_of_instruments() -> None:
    steps = -(-131_837 // 128) * 5
    assert int(steps * train("bigrec").warmup) == 20


def test_later_presets_win_then_the_file_then_flags(
    own_world: Path, tmp_path: Path, ilrec: Callable[..., Finished]
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("preset: [table3-wo-cns, table3_wo-cpo]\nschedule: constant\noptions: {alpha: 0.5, mu_crr: 0.05}\n")
    command = ["train", "--dataset", "toy", "--work", own_world, "--name", "preset", *TINY_LM, "--max-steps", "1"]
    assert ilrec(*command, "--config", file, "-o", "mu_crr=0.1").code == 0
    saved = configs.read_yaml(own_world / "toy" / "runs" / "preset" / "train" / "config.yaml")
    chosen = {key: saved["options"][key] for key in ("negatives_from", "beta", "alpha", "mu_crr")}
    assert chosen == {"negatives_from": "final", "beta": 0.0, "alpha": 0.5, "mu_crr": 0.1}
    assert (saved["schedule"], "preset" in saved) == ("constant", False)
    assert train("bigrec,lc-rec").schedule == "cosine"
    assert train("lc-rec,bigrec", learning_rate="3e-4").learning_rate == 3e-4


def test_an_unknown_preset_names_the_nearest(ilrec: Callable[..., Finished]) -> None:
    line = ilrec("train", "--dataset", "d", "--preset", "paper-8b,table3-wo-cp").one_line()
    assert "no preset 'table3-wo-cp'" in line
    assert "Did you mean 'table3-wo-cp" in line


def test_listing_has_a_line_for_each(ilrec: Callable[..., Finished]) -> None:
    shown = ilrec("methods", "ilrec").out
    for name, preset in presets.known(method).items():
        assert any(name in line and preset.about in line for line in shown.splitlines()), name
    assert "hidden_dropout_prob=0.3" in ilrec("cf", "sasrec").out


def test_a_method_lays_its_own_entry_over_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "presets.yaml").write_text(
        "a: {about: all, epochs: 3, options: {x: 1, y: 1}}\nb: {preset: a, epochs: 4}\n"
    )
    (tmp_path / "one" / "presets.yaml").write_text("a: {options: {x: 2}}\n")
    plugin = ModuleType("ilrec_cli.methods.one")
    plugin.__file__ = str(tmp_path / "one" / "__init__.py")
    assert presets.known(plugin)["a"] == ("all", {"epochs": 3, "options": {"x": 2, "y": 1}})
    assert presets.chosen(plugin, "b") == {"epochs": 4, "options": {"x": 2, "y": 1}}
    with pytest.raises(UserError, match="no preset 'c'"):
        presets.chosen(plugin, ["a", "c"])
