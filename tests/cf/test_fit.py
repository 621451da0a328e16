"""The engine: kills and resumes to the same bits, early stopping, seeds, seen items."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts
from ilrec_cli.cf._fit import Fit, Material, Progress, Saving, fit
from ilrec_cli.cf._rank import Events, rank_events
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, training_windows
from ilrec_cli.interrupt import Stopped
from ilrec_cli.json_log import read_log
from ilrec_cli.settings import TrainCf

CPU = torch.device("cpu")
ITEMS, USERS, LONGEST = 25, 40, 6
SETTINGS = TrainCf(dataset="toy", epochs=4, patience=4, batch_size=8, learning_rate=1e-2, weight_decay=0.1)


class Toy(nn.Module):
    """Dropout and a draw in the loss, a buffer that training changes: whatever must come back after a kill."""

    seen_I: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.item, self.out, self.dropout = nn.Embedding(ITEMS, 8), nn.Linear(8, ITEMS), nn.Dropout(0.3)
        self.register_buffer("seen_I", torch.zeros(ITEMS, dtype=torch.bool))

    def loss(self, batch: Batch) -> Tensor:
        chosen = batch.target_BT >= 0
        self.seen_I[batch.target_BT[chosen]] = True
        logits_NI = self.out(self.dropout(self.item(batch.item_BT[chosen])))
        noise_NI = 0.1 * torch.rand_like(logits_NI)
        return nn.functional.cross_entropy(logits_NI + noise_NI, batch.target_BT[chosen])

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        last_B = history_BT.gather(1, ((history_BT >= 0).sum(1) - 1)[:, None]).squeeze(1)
        return self.out(self.item(last_B)) + self.seen_I


def material() -> Material:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 12, size=USERS)
    items = rng.integers(ITEMS, size=lengths.sum())
    sequences = Sequences(items, np.concatenate([[0], lengths.cumsum()]))
    valid = Events(np.arange(USERS), lengths - 2)
    facts = Facts(USERS, ITEMS, LONGEST, torch.bincount(torch.from_numpy(items), minlength=ITEMS))
    return Material(sequences, training_windows(sequences, lengths - 2, LONGEST), valid, facts)


def start(folder: Path, *, resume: bool = False, settings: TrainCf = SETTINGS, model: Any = None) -> Fit:
    saving = Saving(folder, {"seed": settings.seed}, resume)
    return Fit(model or Toy(), material(), settings, CPU, saving, Console(quiet=True))


def ended(folder: Path, **how: Any) -> tuple[dict[str, Tensor], Progress, list[dict[str, Any]]]:
    """(weights and buffers, progress, log without times) of a training that runs to its end."""
    training = start(folder, **how)
    progress = training.run(lambda row: None)
    log = [{key: value for key, value in row.items() if "seconds" not in key} for row in read_log(folder / "log.jsonl")]
    return training.model.state_dict(), progress, log


def assert_same(one: tuple[Any, Progress, Any], two: tuple[Any, Progress, Any]) -> None:
    assert one[0].keys() == two[0].keys()
    for name, value in one[0].items():
        assert torch.equal(value, two[0][name]), name
    assert replace(one[1], seconds=0.0) == replace(two[1], seconds=0.0)
    assert one[2] == two[2]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it, nothing is saved on the way out."""


def test_killed_before_any_update_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, monkeypatch: Any) -> None:
    """Inside epochs, between them, again and again at random: what was done after the last checkpoint is done again."""
    straight = ended(tmp_path / "straight")
    steps, update = straight[1].step, Fit._update
    assert steps // SETTINGS.epochs > 3
    rng = np.random.default_rng(1)
    kills = [*range(0, steps, 4), *rng.integers(steps, size=6)]
    for kill in map(int, kills):
        folder = tmp_path / f"killed-{kill}-{rng.integers(10**9)}"
        again = int(rng.integers(kill, steps))
        for place in (kill, again):

            def dying(self: Fit, windows: Any, place: int = place) -> float:
                if self.progress.step == place:
                    raise Killed
                return update(self, windows)

            monkeypatch.setattr(Fit, "_update", dying)
            resume = (folder / "checkpoints" / "last.safetensors").exists()
            with pytest.raises(Killed):
                start(folder, resume=resume).run(lambda row: None)
        monkeypatch.setattr(Fit, "_update", update)
        resume = (folder / "checkpoints" / "last.safetensors").exists()
        assert_same(ended(folder, resume=resume), straight)


def test_killed_between_the_best_weights_and_the_checkpoint_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: Any
) -> None:
    straight = ended(tmp_path / "straight")
    save = Fit._save
    for epoch in range(1, 5):

        def dying(self: Fit, path: Path, epoch: int = epoch) -> None:
            if path is self.last and self._epoch() == epoch:
                raise Killed
            save(self, path)

        folder = tmp_path / f"killed-{epoch}"
        monkeypatch.setattr(Fit, "_save", dying)
        with pytest.raises(Killed):
            start(folder).run(lambda row: None)
        monkeypatch.setattr(Fit, "_save", save)
        assert_same(ended(folder, resume=epoch > 1), straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [2, 5, 9])
def test_asked_to_stop_it_saves_the_step_it_is_at(tmp_path: Path, monkeypatch: Any, step: int, number: int) -> None:
    straight, update = ended(tmp_path / "straight"), Fit._update

    def signalled(self: Fit, windows: Any) -> float:
        if self.progress.step == step - 1:
            os.kill(os.getpid(), number)
        return update(self, windows)

    monkeypatch.setattr(Fit, "_update", signalled)
    with pytest.raises(Stopped, match=f"after step {step}; go on with --resume"):
        start(tmp_path / "stopped").run(lambda row: None)
    monkeypatch.setattr(Fit, "_update", update)
    training = start(tmp_path / "stopped", resume=True)
    assert training.progress.step == step
    assert_same(ended(tmp_path / "stopped", resume=True), straight)


def test_the_end_has_the_best_epochs_weights_and_patience_counts_from_it(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=60, patience=2, learning_rate=0.3)
    weights, progress, log = ended(tmp_path, settings=settings)
    scores = [row["valid_ndcg@10"] for row in log]
    assert progress.best == max(scores)
    assert progress.best_epoch == scores.index(max(scores)) + 1
    assert len(log) == progress.best_epoch + 2 < 60
    model, data = Toy(), material()
    model.load_state_dict(weights)
    ranked = rank_events(model, data.sequences, data.valid, data.facts, CPU).rank_E
    gain = np.where((ranked >= 0) & (ranked < 10), 1 / np.log2(np.maximum(ranked, 0) + 2.0), 0.0)
    assert gain.mean() == pytest.approx(progress.best, abs=1e-12)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        f"best-{progress.best_epoch}.safetensors", "last.safetensors",
    ]  # fmt: skip


def test_the_logged_loss_is_the_mean_over_targets(tmp_path: Path) -> None:
    class Constant(Toy):
        def loss(self, batch: Batch) -> Tensor:
            return 0 * super().loss(batch) + float((batch.target_BT >= 0).sum())

    _, progress, log = ended(tmp_path, settings=replace(SETTINGS, epochs=1), model=Constant())
    sizes = []
    data = material()
    from ilrec_cli.batching import epoch_batches

    for rows in epoch_batches(data.windows.lengths, SETTINGS.batch_size, 0, 1):
        part = data.windows.take(rows)
        sizes.append(int((part.stop - part.first).sum()))
    assert log[0]["loss"] == pytest.approx(sum(n * n for n in sizes) / sum(sizes))
    assert progress.targets == sum(sizes)


def test_a_step_without_a_finite_gradient_stops_the_training(tmp_path: Path) -> None:
    class Broken(Toy):
        def loss(self, batch: Batch) -> Tensor:
            return super().loss(batch) * torch.inf

    with pytest.raises(UserError, match="step 1: the gradient is not finite. Lower --learning-rate"):
        start(tmp_path, model=Broken()).run(lambda row: None)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        start(tmp_path / "none", resume=True)
    start(tmp_path / "a", settings=replace(SETTINGS, epochs=1)).run(lambda row: None)
    with pytest.raises(UserError, match="seed is 1, the checkpoint has 0"):
        start(tmp_path / "a", resume=True, settings=replace(SETTINGS, seed=1))


@pytest.mark.parametrize(
    ("spoil", "said"), [(Path.unlink, "is missing"), (lambda path: path.write_bytes(b"torn"), "is damaged")]
)
def test_best_weights_that_are_lost_are_missed_before_training_goes_on(tmp_path: Path, spoil: Any, said: str) -> None:
    ended(tmp_path / "a")
    (best,) = (tmp_path / "a" / "checkpoints").glob("best-*")
    spoil(best)
    with pytest.raises(UserError, match=f"{best.name}: the checkpoint {said}"):
        start(tmp_path / "a", resume=True)


def test_without_a_folder_nothing_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    rows: list[dict[str, Any]] = []
    fit(Toy(), material(), SETTINGS, device=CPU, log=rows.append)
    assert len(rows) == 4
    assert not list(tmp_path.iterdir())


def test_removed_items_are_neither_listed_nor_found() -> None:
    """Against a plain loop: what the user had before the event goes, its own target with it if it was there."""
    data, model = material(), Toy()
    every = Events(np.repeat(np.arange(USERS), 2), np.stack([data.valid.end_E, data.valid.end_E + 1], 1).ravel())
    found = rank_events(model, data.sequences, every, data.facts, CPU, "removed")
    repeats = 0
    for place, (user, end) in enumerate(zip(*every, strict=True)):
        items = data.sequences.items[data.sequences.offsets[user] :][: end + 1].tolist()
        *before, target = items
        scores = model.scores(torch.tensor([before[-LONGEST:]]))[0].tolist()
        order = sorted((i for i in range(ITEMS) if i not in before), key=lambda i: (-scores[i], i))
        assert [i for i in found.item_Ek[place] if i >= 0] == order[:20]
        assert found.rank_E[place] == (order[:20].index(target) if target in order[:20] else -1)
        repeats += target in before
    assert repeats
    kept = rank_events(model, data.sequences, every, data.facts, CPU)
    assert (kept.item_Ek >= 0).all()
    assert (kept.rank_E != found.rank_E).any()
