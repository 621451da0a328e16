"""The loop: kills and resumes to the same bits, accumulation, schedule, refusals."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import llama
from safetensors.torch import load_file

from ilrec_cli import checkpoint
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, training_windows
from ilrec_cli.json_log import JsonLog, read_log
from ilrec_cli.lm.examples import Catalogue, Examples, Layout
from ilrec_cli.lm.loop import Job, Progress
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.lm.phases import Material, run_phases
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.lm.steps import schedule
from ilrec_cli.methods.ilrec import Config, weights
from ilrec_cli.methods.ilrec.loss import make_loss
from ilrec_cli.settings import Train

END = 1


def catalogue(items: int) -> Catalogue:
    from ilrec_cli.histories import gather_runs
    from ilrec_cli.trie import ItemTrie

    paths = [[3 + item % 8, 11 + item // 8, END] for item in range(items)]
    flat, start = np.array(paths).ravel(), np.arange(items) * 3
    trie = ItemTrie.build(paths)
    node = np.zeros((items, 3), dtype=np.int64)
    for depth in (1, 2):
        node[:, depth] = trie.step(
            torch.from_numpy(node[:, depth - 1]), torch.tensor([p[depth - 1] for p in paths])
        ).numpy()
    return Catalogue(gather_runs(flat, start, np.full(items, 3)), np.full(items, 3), node, trie)


def a_job(folder: Path, settings: Train, kind: torch.dtype = torch.float64, **parallel: Any) -> Job:
    """Users who walk through 40 items in order; a loss with every term."""
    lengths = np.random.default_rng(0).integers(4, 12, size=49)
    offsets = np.concatenate([[0], lengths.cumsum()])
    sequences = Sequences(np.arange(offsets[-1]) % 40, offsets)
    empty = np.zeros(0, dtype=np.int64)
    examples = Examples(
        sequences,
        training_windows(sequences, lengths - 2, 20),
        catalogue(40),
        Layout(np.array([0]), empty, empty, True, 2),
    )
    method = Config(lambda_cpd=0.1, mu_crr=0.0)
    scores = iter([0.3, 0.1, 0.2, 0.0, 0.0, 0.0])
    return Job(
        parallel=Parallel(SupervisedLM(llama(initializer_range=0.02).to(kind), (2,)), Accelerator(cpu=True), **parallel),
        source=examples, loss=make_loss(method), weights=weights(method), rewards=None,
        validate=lambda: {"ndcg@10": next(scores), "hit@10": 0.5}, settings=settings, learning_rate=1e-2,
        epochs=settings.epochs, folder=folder, identity={"seed": settings.seed},
    )  # fmt: skip


def run(*jobs: Job) -> tuple[dict[str, torch.Tensor], Progress]:
    """Weights and place after the phases."""
    first = jobs[0]
    phases = [lambda job=job: job for job in jobs]
    progress = run_phases(
        phases, first.folder, first.identity, Console(quiet=True), parallel=first.parallel, resume=first.settings.resume
    )
    return {name: value.detach().clone() for name, value in first.parallel.model.state_dict().items()}, progress


SETTINGS = Train(dataset="toy", epochs=2, batch_size=16, log_every=3, patience=9)


def test_accumulation_gives_the_update_of_one_big_batch(tmp_path: Path) -> None:
    whole, _ = run(a_job(tmp_path / "a", SETTINGS))
    for micro in (5, 1):
        parts, _ = run(a_job(tmp_path / str(micro), replace(SETTINGS, micro_batch=micro)))
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-9, msg=name)


def test_loss_chunks_give_the_same_training(tmp_path: Path) -> None:
    whole, _ = run(a_job(tmp_path / "a", SETTINGS))
    chunked, _ = run(a_job(tmp_path / "b", replace(SETTINGS, loss_chunk=7)))
    for name, value in whole.items():
        torch.testing.assert_close(chunked[name], value, rtol=0, atol=1e-9, msg=name)


def test_the_best_weights_are_kept_and_patience_stops(tmp_path: Path) -> None:
    weights_, progress = run(a_job(tmp_path / "a", replace(SETTINGS, epochs=5, patience=2)))
    assert (progress.step, progress.best, progress.best_step) == (12, 0.3, 4), "best after epoch 1, two more without"
    log = read_log(tmp_path / "a" / "log.jsonl")
    assert [row["best"] for row in log if "best" in row] == [True, False, False]
    assert [row["step"] for row in log if "loss" in row] == [3, 6, 9, 12]
    row = log[0]
    assert row["loss"] == pytest.approx(row["cpo"] + 0.1 * row["cpd"], rel=1e-12)
    assert {"cpo", "cpd", "ce", "lr", "grad_norm", "negatives", "seconds"} <= row.keys()
    one_epoch, _ = run(a_job(tmp_path / "b", replace(SETTINGS, epochs=5, patience=1, max_steps=None)))
    for name, value in weights_.items():
        assert torch.equal(one_epoch[name], value), "those of the best step, not of the last"


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    straight, _ = run(a_job(tmp_path / "a", SETTINGS, torch.float32))
    for stop_after in range(1, 8):
        folder = tmp_path / f"stop{stop_after}"
        job = a_job(folder, SETTINGS, torch.float32)
        calls = []

        def counting(
            *arguments: Any, job: Job = job, calls: list[int] = calls, after: int = stop_after, **named: Any
        ) -> Any:
            calls.append(1)
            if len(calls) == after:
                os.kill(os.getpid(), signal.SIGTERM)
            return job.loss(*arguments, **named)

        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop_after}"):
            run(replace(job, loss=counting))
        resumed, progress = run(a_job(folder, replace(SETTINGS, resume=True), torch.float32))
        assert progress.step == 8
        for name, value in straight.items():
            assert torch.equal(resumed[name], value), (stop_after, name)
        steps = [row["step"] for row in read_log(folder / "log.jsonl") if "loss" in row]
        assert steps == sorted(set(steps)), "no line twice"


def test_the_best_weights_are_those_of_the_step_that_the_checkpoint_names(tmp_path: Path) -> None:
    """Killed after new best weights were written but before the checkpoint: the resumed run must not take them."""
    job = a_job(tmp_path / "a", SETTINGS, torch.float32)
    straight, _ = run(a_job(tmp_path / "b", SETTINGS, torch.float32))
    scores = iter([{"ndcg@10": 0.5, "hit@10": 0}, {"ndcg@10": 0.9, "hit@10": 0}])

    class KilledError(Exception):
        pass

    def validate() -> dict[str, float]:
        score = next(scores)
        if score["ndcg@10"] == 0.9:
            checkpoint.save(tmp_path / "a" / "checkpoints" / "best-8.safetensors", job.parallel.model, None, {})
            raise KilledError
        return score

    with pytest.raises(KilledError):
        run(replace(job, validate=validate))
    resumed_job = replace(
        a_job(tmp_path / "a", replace(SETTINGS, resume=True), torch.float32),
        validate=lambda: {"ndcg@10": 0.1, "hit@10": 0},
    )
    resumed, progress = run(resumed_job)
    assert (progress.best, progress.best_step) == (0.5, 4)
    first_epoch, _ = run(a_job(tmp_path / "c", replace(SETTINGS, patience=1), torch.float32))
    for name, value in first_epoch.items():
        assert torch.equal(resumed[name], value), name
    assert straight.keys() == resumed.keys()
    assert sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir()) == [
        "best-4.safetensors",
        "last.safetensors",
        "previous.safetensors",
    ]


def test_a_term_with_a_count_of_its_own_is_refused(tmp_path: Path) -> None:
    job = a_job(tmp_path / "a", SETTINGS)

    def pairs(*arguments: Any, **named: Any) -> Any:
        terms = job.loss(*arguments, **named)
        terms.losses["cpo"] = (terms.cpo, terms.losses["cpo"][1] / 2)
        return terms

    with pytest.raises(ValueError, match="loss term cpo counts"):
        run(replace(job, loss=pairs))


def test_a_damaged_checkpoint_has_one_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight, _ = run(a_job(tmp_path / "a", replace(SETTINGS, save_every=1), torch.float32))
    last = tmp_path / "a" / "checkpoints" / "last.safetensors"
    assert checkpoint.read_state(last)["step"] == 8
    last.write_bytes(last.read_bytes()[:-100])
    again, progress = run(a_job(tmp_path / "a", replace(SETTINGS, resume=True), torch.float32))
    assert progress.step == 8
    assert "last.safetensors is damaged; going on from the checkpoint before it" in capsys.readouterr().err
    for name, value in straight.items():
        assert torch.equal(again[name], value), name
    assert checkpoint.read_state(checkpoint.previous(last))["step"] == 7, "the damaged one is not kept"
    last.unlink()  # as a kill between the two renames leaves it
    _, progress = run(a_job(tmp_path / "a", replace(SETTINGS, resume=True), torch.float32))
    assert progress.step == 8
    for path in (last, checkpoint.previous(last)):
        path.write_bytes(b"torn")
    with pytest.raises(UserError, match="previous.safetensors: the checkpoint is damaged"):
        run(a_job(tmp_path / "a", replace(SETTINGS, resume=True)))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:1000])])
def test_best_weights_that_are_lost_are_missed_before_training_goes_on(
    tmp_path: Path, spoil: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the checkpoint stand in, here of step 6; what comes after must beat them."""
    job = a_job(tmp_path / "a", replace(SETTINGS, save_every=6), torch.float32)
    scores = iter([0.3])
    with pytest.raises(StopIteration):  # at step 8, as a kill does
        run(replace(job, validate=lambda: {"ndcg@10": next(scores), "hit@10": 0.0}))
    (best,) = (tmp_path / "a" / "checkpoints").glob("best-*")
    spoil(best)
    at_6 = load_file(tmp_path / "a" / "checkpoints" / "last.safetensors")
    scores = iter([0.2, 0.1])
    job = a_job(tmp_path / "a", replace(SETTINGS, resume=True), torch.float32)
    ended, progress = run(replace(job, validate=lambda: {"ndcg@10": next(scores), "hit@10": 0.0}))
    assert (
        "best-4.safetensors is missing or damaged; the best weights are now those of step 6" in capsys.readouterr().err
    )
    assert (progress.step, progress.best, progress.best_step) == (8, 0.2, 6)
    assert any(name.startswith("model.") for name in at_6)
    for name, value in ended.items():
        assert torch.equal(value, at_6[f"model.{name}"]), name


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    job = a_job(tmp_path / "a", SETTINGS)
    before = {name: value.clone() for name, value in job.parallel.model.state_dict().items()}

    def broken(final: torch.Tensor, *rest: Any, **named: Any) -> Any:
        terms = job.loss(final, *rest, **named)
        terms.losses["cpo"] = (terms.cpo * math.inf, terms.losses["cpo"][1])
        return terms

    with pytest.raises(UserError, match="step 1: the loss or its gradient is not finite"):
        run(replace(job, loss=broken))
    for name, value in before.items():
        assert torch.equal(job.parallel.model.state_dict()[name], value)


def test_phases_follow_one_another_and_resume_anywhere_to_the_same_bits(tmp_path: Path) -> None:
    """The second phase starts from the best weights of the first; its data are drawn once, from those weights."""

    def two(folder: Path, resume: bool, stop_after: int = -1) -> tuple[dict[str, torch.Tensor], Progress, list[float]]:
        first = a_job(folder, replace(SETTINGS, resume=resume), torch.float32)
        drawn: list[float] = []
        calls: list[int] = []

        def loss(*arguments: Any, **named: Any) -> Any:
            calls.append(1)
            if len(calls) == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            return first.loss(*arguments, **named)

        def second() -> Job:
            material = Material(
                first.settings, None, first.source, np.zeros(40), first.parallel, folder / "phases" / "2", 1
            )
            weight = next(first.parallel.model.parameters())
            kept = material.kept(lambda: {"sum": weight.detach().double().sum().numpy()[None]})
            drawn.append(float(kept["sum"][0]))
            return replace(first, name="second", loss=loss, epochs=1, learning_rate=float(1e-3 + abs(drawn[0]) * 1e-4))

        progress = run_phases(
            [lambda: replace(first, name="first", loss=loss), second], folder, first.identity, Console(quiet=True),
            parallel=first.parallel, resume=resume,
        )  # fmt: skip
        return dict(first.parallel.model.state_dict()), progress, drawn

    straight, progress, drawn = two(tmp_path / "straight", False)
    assert (progress.phase, progress.before, progress.step) == (1, 8, 4)
    rows = read_log(tmp_path / "straight" / "log.jsonl")
    assert [(row["phase"], row["step"]) for row in rows if "best" in row] == [
        ("first", 4),
        ("first", 8),
        ("second", 12),
    ]
    best_of_first, _ = run(a_job(tmp_path / "first", SETTINGS, torch.float32))
    first_weight = next(iter(best_of_first.values()))
    assert drawn == [float(first_weight.double().sum())]
    for stop_after in (2, 4, 7, 8, 9, 11, 12):
        folder = tmp_path / f"stop{stop_after}"
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop_after};"):
            two(folder, False, stop_after)
        resumed, progress, again = two(folder, True)
        assert again == drawn
        assert progress.all_steps == 12
        for name, value in straight.items():
            assert torch.equal(resumed[name], value), (stop_after, name)


def test_resume_refuses_another_configuration_and_names_the_key(tmp_path: Path) -> None:
    run(a_job(tmp_path / "a", SETTINGS))
    assert checkpoint.first_difference(
        {"method": "ilrec", "options": {"alpha": 0.8}}, {"method": "sft", "options": {}}
    ) == ("method", "sft", "ilrec"), "not its options"
    with pytest.raises(UserError, match="seed is 1, the checkpoint has 0"):
        run(a_job(tmp_path / "a", replace(SETTINGS, seed=1, resume=True)))
    with pytest.raises(UserError, match="there is no checkpoint"):
        run(a_job(tmp_path / "b", replace(SETTINGS, resume=True)))
    begun, other = ({"options": {"alpha": 0.8, "beta": beta}, "seed": 0} for beta in (0.1, 0.2))
    with pytest.raises(UserError, match="^--resume: -o beta is 0.2, the checkpoint has 0.1. Give"):
        checkpoint.refuse_other(begun, other)


def test_schedule() -> None:
    base = replace(SETTINGS, warmup=0.1)
    cosine = [schedule(step, 100, base) for step in range(100)]
    assert cosine[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert cosine[10] == 1
    assert cosine[55] == pytest.approx(0.5)
    assert cosine == sorted(cosine[:10]) + sorted(cosine[10:], reverse=True)
    assert schedule(55, 100, replace(base, schedule="linear")) == pytest.approx(0.5)
    assert schedule(99, 100, replace(base, schedule="constant")) == 1
    assert schedule(0, 1, replace(base, warmup=0.0)) == 1


def test_a_log_ignores_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_log(path)] == [1, 2]
    JsonLog(path, 1, enabled=True).write(step=2, again=True)
    assert read_log(path) == [{"step": 1}, {"step": 2, "again": True}]
