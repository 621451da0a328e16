"""One update: statistics by any name, recomputation, lower precision; launch modes and trackers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import GeneralTracker
from test_loop import SETTINGS, a_job, run

from ilrec_cli.errors import UserError
from ilrec_cli.json_log import read_log
from ilrec_cli.lm.terms import Terms
from ilrec_cli.stages import _processes


def test_a_statistic_may_be_there_in_some_batches_only(tmp_path: Path) -> None:
    """As losses by task are: the log has each one's mean over the batches that had it."""
    job, seen = a_job(tmp_path, replace(SETTINGS, log_every=4, max_steps=4)), []

    def loss(*arguments: Any, **named: Any) -> Terms:
        terms = job.loss(*arguments, **named)
        seen.append(len(seen))
        extra = {f"task{seen[-1] % 2}": (torch.tensor(10.0 * seen[-1]), torch.tensor(2))}
        return Terms(terms.losses, {**terms.stats, **extra})

    run(replace(job, loss=loss))
    (row,) = [row for row in read_log(tmp_path / "log.jsonl") if "loss" in row]
    assert (row["task0"], row["task1"]) == ((0 + 20) / 4, (10 + 30) / 4)


def test_recomputed_activations_give_the_same_bits(tmp_path: Path) -> None:
    plain, _ = run(a_job(tmp_path / "a", replace(SETTINGS, max_steps=4), torch.float32))
    job = a_job(tmp_path / "b", replace(SETTINGS, max_steps=4), torch.float32)
    job.parallel.model.backbone.gradient_checkpointing_enable()
    again, _ = run(job)
    for name, value in plain.items():
        assert torch.equal(again[name], value), name


def test_bfloat16_passes_stay_close_and_weights_stay_float32(tmp_path: Path) -> None:
    settings = replace(SETTINGS, max_steps=4, log_every=1)
    run(a_job(tmp_path / "a", settings, torch.float32))
    job = a_job(tmp_path / "b", settings, torch.float32, dtype="bfloat16")
    weights, _ = run(job)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    plain, low = ([row["loss"] for row in read_log(tmp_path / name / "log.jsonl") if "loss" in row] for name in "ab")
    assert low == pytest.approx(plain, rel=0.02)
    assert low != plain


def test_what_is_not_finite_is_skipped_on_the_device(tmp_path: Path) -> None:
    """As on a GPU, where nobody looks until the next log line: weights and moments stay, the first step is named."""
    job = a_job(tmp_path, SETTINGS, torch.float32)
    from ilrec_cli.lm.steps import Updater

    updater = Updater(job.parallel, job.source, job.loss, job.weights, None, job.settings)
    parameter = updater.parameters[0]
    asked = updater.check
    updater.check = lambda: None  # type: ignore[method-assign]
    updater.update(torch.arange(8).numpy(), 1e-2, 1)
    good = parameter.detach().clone()
    scale, plain = torch.inf, job.loss
    updater.loss = lambda *arguments, **named: _scaled(plain(*arguments, **named), scale)
    updater.update(torch.arange(8).numpy(), 1e-2, 2)
    updater.loss = plain
    updater.update(torch.arange(8).numpy(), 1e-2, 3)
    assert torch.equal(parameter, good)
    assert updater.optimizer.state[parameter]["step"] == 1
    with pytest.raises(UserError, match="step 2: the loss or its gradient is not finite"):
        asked()


def test_a_term_without_weight_may_be_infinite(tmp_path: Path) -> None:
    job = a_job(tmp_path / "a", replace(SETTINGS, max_steps=2))

    def with_another(*arguments: Any, **named: Any) -> Terms:
        terms = job.loss(*arguments, **named)
        return Terms({**terms.losses, "cpd": (terms.ce.detach() * torch.inf, terms.losses["ce"][1])}, terms.stats)

    _, progress = run(replace(job, loss=with_another, weights={**job.weights, "cpd": 0.0}))
    assert progress.step == 2


def _scaled(terms: Terms, scale: float) -> Terms:
    return Terms({name: (value * scale, count) for name, (value, count) in terms.losses.items()}, terms.stats)


class Recorder(GeneralTracker):
    name = "recorder"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def tracker(self) -> Any:
        return self.rows

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        json.dumps(values)

    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        self.rows.append((step, values))


def test_trackers_get_every_line_of_the_log(tmp_path: Path) -> None:
    job, recorder = a_job(tmp_path, replace(SETTINGS, max_steps=4)), Recorder()
    accelerator = job.parallel.accelerator
    accelerator.log_with = [recorder]
    with _processes.tracked(accelerator, "a-run", {"epochs": 2, "lora_targets": ["q_proj"], "name": None}):
        run(job)
    rows = read_log(tmp_path / "log.jsonl")
    assert [step for step, _ in recorder.rows] == [row["step"] for row in rows] == [3, 4, 4]
    for (_, values), row in zip(recorder.rows, rows, strict=True):
        assert all(value == row[name.replace("_at_", "@")] for name, value in values.items())
        # MLflow refuses a whole line for one other sign (mlflow.utils.validation).
        assert all(re.fullmatch(r"[/\w.\- :]*", name) for name in values)
    assert "valid_ndcg_at_10" in recorder.rows[-1][1]


def test_tensorboard_writes_where_the_documentation_says(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(SETTINGS, max_steps=4, track="tensorboard", device="cpu")
    accelerator = _processes.make_accelerator(settings, tmp_path)
    job = a_job(tmp_path / "train", settings)
    job.parallel.accelerator = accelerator
    with _processes.tracked(accelerator, "a-run", {"epochs": 2}):
        run(job)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [3, 4]
    assert [event.value for event in events.Scalars("valid_ndcg_at_10")] == pytest.approx([0.3])


def test_a_missing_tracker_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processes, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--track wandb: the package is not installed; pip install 'ilrec\[wandb\]'"):
        _processes.make_accelerator(replace(SETTINGS, track="wandb"))


@pytest.mark.parametrize(
    ("variable", "what"), [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")]
)
def test_launch_modes_that_were_never_tested_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, what: str
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=f"{what}.*--shard"):
        _processes.make_accelerator(SETTINGS)
