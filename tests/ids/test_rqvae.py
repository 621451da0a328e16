"""RQ-VAE: the same bits for the same seed, whatever the order or the interruptions; collapse is told, not hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.ids import rqvae
from ilrec_cli.ids._quantise import Job, Quantised, automatic_codes, greedy
from ilrec_cli.ids.rqvae import checkpoint
from ilrec_cli.ids.rqvae.evaluation import Evaluation, collapsed_levels, evaluate
from ilrec_cli.ids.rqvae.quantise import distinct, fit, latent
from ilrec_cli.ids.rqvae.train import Trainer

ITEMS = 120
SMALL = {"levels": 3, "codes": 12, "code_size": 6, "hidden": (16,), "batch_size": 50, "epochs": 12, "evaluate_every": 2}


def vectors(seed: int = 0) -> np.ndarray:
    """Items in clusters; three of them have the very same vector."""
    rng = np.random.default_rng(seed)
    found = (rng.normal(size=(8, 10)) * 2)[rng.integers(8, size=ITEMS)] + rng.normal(size=(ITEMS, 10)) * 0.3
    found[[50, 90]] = found[7]
    return found.astype(np.float32)


def quantised(vectors_ID: np.ndarray, seed: int = 0, job: Job | None = None, **options: Any) -> Quantised:
    config = rqvae.Config(**(SMALL | options))
    return fit(vectors_ID, config, np.random.default_rng(seed), job or Job())


def equal(one: Quantised, other: Quantised) -> bool:
    """Bit by bit."""
    arrays = zip([one.code_IL, one.latent_ID, *one.codebook_LKD], [other.code_IL, other.latent_ID, *other.codebook_LKD],
                 strict=True)  # fmt: skip
    weights = all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    return all(np.array_equal(*pair) for pair in arrays) and weights and one.notes == other.notes


@pytest.mark.parametrize("residual", ["detached_code", "straight_through"])
def test_the_same_for_the_same_seed_only(residual: str) -> None:
    first = quantised(vectors(), residual=residual)
    assert equal(first, quantised(vectors(), residual=residual))
    assert not np.array_equal(first.code_IL, quantised(vectors(), seed=1, residual=residual).code_IL)


def test_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = quantised(vectors(), epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(first, quantised(vectors(), epochs=2))


def test_permuting_the_items_permutes_the_result() -> None:
    order = np.random.default_rng(3).permutation(ITEMS)
    straight, shuffled = quantised(vectors()), quantised(vectors()[order])
    assert np.array_equal(shuffled.code_IL, straight.code_IL[order])
    assert np.array_equal(shuffled.latent_ID, straight.latent_ID[order])


def test_equal_vectors_get_equal_codes_and_count_once() -> None:
    repeated = np.concatenate([vectors(), np.repeat(vectors()[:1], 300, axis=0)])
    found = quantised(repeated)
    assert (found.code_IL[ITEMS:] == found.code_IL[0]).all()
    assert np.array_equal(found.code_IL[:ITEMS], quantised(vectors()).code_IL), "300 copies weigh no more than one"
    rows, where = distinct(np.array([[1.0, 0.0], [0.0, 2.0], [1.0, -0.0]]))
    assert len(rows) == 2
    assert where[0] == where[2] != where[1]


def test_codes_are_greedy_and_the_latent_is_the_encoders_output() -> None:
    found = quantised(vectors())
    assert np.array_equal(found.code_IL, greedy(found.latent_ID, found.codebook_LKD)[0])
    assert found.latent_ID.dtype == found.codebook_LKD[0].dtype == np.float32
    hidden = (vectors().astype(np.float64) - found.weights["shift"]) * found.weights["scale"]
    hidden = np.maximum(hidden @ found.weights["encoder.0.weight"].T + found.weights["encoder.0.bias"], 0)
    want = hidden @ found.weights["encoder.2.weight"].T + found.weights["encoder.2.bias"]
    np.testing.assert_allclose(found.latent_ID, want, atol=1e-5)
    config = rqvae.Config(**SMALL)
    np.testing.assert_allclose(latent(vectors()[5:9], found.weights, config), want[5:9], atol=1e-5)
    with pytest.raises(UserError, match="4 dimensions, the encoder takes 10"):
        latent(vectors()[:, :4], found.weights, config)


def test_vectors_are_brought_to_unit_variance_unless_told_otherwise() -> None:
    """So that the weights of the losses mean the same for any encoder."""
    found = quantised(vectors() * 1000 + 5, epochs=1)
    rows = (distinct(vectors() * 1000 + 5)[0] - found.weights["shift"]) * found.weights["scale"]
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-5)
    assert rows.var(0).mean() == pytest.approx(1, abs=1e-5)
    assert np.ptp(rows.var(0)) > 0.1, "one factor for all dimensions: distances keep their proportions"
    raw = quantised(vectors(), standardise=False, epochs=1)
    assert raw.weights["scale"] == 1
    assert (raw.weights["shift"] == 0).all()


class Interruption(Exception):
    pass


def stopping_after(evaluations: int, rows: list[dict[str, Any]]) -> Any:
    def log(row: dict[str, Any]) -> None:
        if len(rows) == evaluations:
            raise Interruption
        rows.append(row)

    return log


@pytest.mark.parametrize("evaluations", [1, 3, 5])
def test_a_stopped_training_goes_on_with_the_same_bits(tmp_path: Path, evaluations: int) -> None:
    straight_rows: list[dict[str, Any]] = []
    straight = quantised(vectors(), job=Job(log=straight_rows.append))
    rows: list[dict[str, Any]] = []
    with pytest.raises(Interruption):
        quantised(vectors(), job=Job(checkpoints=tmp_path, log=stopping_after(evaluations, rows)))
    assert [path.name for path in tmp_path.iterdir()] == ["rqvae.safetensors"]
    resumed = quantised(vectors(), job=Job(checkpoints=tmp_path, log=rows.append))
    assert equal(straight, resumed)
    assert rows == straight_rows
    assert equal(straight, quantised(vectors(), job=Job(checkpoints=tmp_path))), "a finished one is not trained again"


def test_a_checkpoint_of_something_else_or_a_damaged_one_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(checkpoints=tmp_path)
    quantised(vectors(), job=job)
    for seed, rows, options in ((1, vectors(), {}), (0, vectors(1), {}), (0, vectors(), {"commitment": 0.3})):
        again = quantised(rows, seed=seed, job=job, **options)
        assert "other vectors or settings" in capsys.readouterr().err
        assert equal(again, quantised(rows, seed=seed, **options))
    file = tmp_path / "rqvae.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert checkpoint.load(file) is None
    assert equal(quantised(vectors(), job=job), quantised(vectors()))


def test_dead_codes_get_what_is_left_of_items_and_a_fresh_optimiser_state() -> None:
    rows, _ = distinct(vectors())
    trainer = Trainer(rows, 12, rqvae.Config(**SMALL), 0, Job())
    trainer._start_codebooks()
    for epoch in (1, 2):
        trainer._train_epoch(epoch)
    trainer.progress.epoch = 2
    with torch.no_grad():
        trainer.model.codebook_LKD[1, 3:7] = 1e3
    found = evaluate(trainer.model, trainer.vector_UV)
    assert found.used[1] <= 8
    dead = found.count_LK == 0
    before = trainer.model.codebook_LKD.detach().clone()
    trainer._restart(found)
    after, residual = trainer.model.codebook_LKD.detach().numpy(), found.latent_UD
    for level in range(3):
        for code in range(12):
            moved = not np.array_equal(after[level, code], before[level, code])
            assert moved == dead[level, code]
            if moved:
                assert (residual == after[level, code]).all(1).any(), "it stands on what some item has left"
                for entry in ("exp_avg", "exp_avg_sq"):
                    assert (trainer.optimizer.state[trainer.model.codebook_LKD][entry][level, code] == 0).all()
        residual = residual - before[level].numpy()[found.code_UL[:, level]]
    assert trainer.progress.restarted == dead.sum()
    assert evaluate(trainer.model, trainer.vector_UV).used[1] > found.used[1]


def evaluation(code_UL: list[list[int]], codes: int) -> Evaluation:
    code = np.array(code_UL)
    count = np.stack([np.bincount(code_U, minlength=codes) for code_U in code.T])
    return Evaluation(np.zeros((len(code), 2)), code, 0.0, 0.0, len(code) - len(np.unique(code, axis=0)), count)


def test_usage_and_entropy_by_hand() -> None:
    found = evaluation([[0, 1], [0, 2], [1, 3], [2, 3]], 4)
    assert found.used.tolist() == [3, 3]
    np.testing.assert_allclose(found.entropy, [1.5, 1.5])
    assert evaluation([[0], [0]], 4).entropy.tolist() == [0]


def test_a_level_is_collapsed_only_while_items_collide() -> None:
    assert collapsed_levels(evaluation([[0, 1], [1, 1], [2, 1], [2, 1]], 40), 0.05).tolist() == [1]
    assert collapsed_levels(evaluation([[0, 1], [1, 1], [2, 1], [3, 1]], 40), 0.05).tolist() == []


def test_a_collapsed_codebook_stops_the_training_with_a_diagnosis(capsys: pytest.CaptureFixture[str]) -> None:
    """A latent that the loss keeps at one point: nothing is left to tell items apart by."""
    rows: list[dict[str, Any]] = []
    wrong = {"commitment": 1e6, "separation": 0.0, "learning_rate": 0.05, "epochs": 400, "collapse": 0.5,
             "restart_every": 0, "evaluate_every": 4}  # fmt: skip
    with pytest.raises(
        UserError, match=r"level \d of 3 uses \d of 12 codes, and \d+ of 118 items .* -o restart_every=1"
    ):
        quantised(vectors(), job=Job(log=rows.append), **wrong)
    assert 20 + 3 * 4 <= rows[-1]["epoch"] < 400, "three evaluations after the 20 epochs of warm-up, but early"
    assert "RQ-VAE stops at epoch" in capsys.readouterr().err


def test_fewer_items_than_codes_and_one_item(capsys: pytest.CaptureFixture[str]) -> None:
    found = quantised(vectors()[:5], codes=256)
    assert "only 5 items differ" in capsys.readouterr().err
    assert {len(book) for book in found.codebook_LKD} == {5}
    assert len(np.unique(found.code_IL[:, 0])) > 1
    assert quantised(vectors()[:1]).code_IL.tolist() == [[0, 0, 0]]
    assert [automatic_codes(items, 256) for items in (4, 384, 3686, 9922, 10**6)] == [4, 32, 128, 256, 256]


def test_a_vector_that_is_not_finite_is_named() -> None:
    broken = vectors()
    broken[17, 2] = np.nan
    with pytest.raises(UserError, match="vector of item 17 is not finite"):
        quantised(broken)


def test_presets_and_options_are_checked() -> None:
    preset = configs.build(rqvae.Config, rqvae.PRESETS["lc-rec"], "preset")
    assert (preset.levels, preset.codes, preset.code_size, preset.epochs) == (4, 256, 32, 10_000)
    assert preset.hidden == (2048, 1024, 512, 256, 128, 64)
    assert (preset.separation, preset.residual) == (0, "straight_through")
    assert preset.warmup * preset.epochs == 50
    assert configs.build(rqvae.Config, {"hidden": "64,32", "residual": "straight-through"}, "-o").hidden == (64, 32)
    for options in (
        {"sinkhorn_epsilon": 0.001},
        {"levels": 0},
        {"hidden": (0,)},
        {"learning_rate": 0.0},
        {"settle": 1.0},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            rqvae.Config(**options)


def test_training_learns_to_reconstruct() -> None:
    found = quantised(vectors(), hidden=(64,), epochs=120, evaluate_every=10)
    assert found.notes["training"]["reconstruction"] < 0.15, "of a variance of 1"


def test_progress_is_told_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = []
    quantised(vectors(), job=Job(console=Console(verbose=True), log=rows.append))
    assert "codes used" in capsys.readouterr().out
    assert [row["epoch"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert all(len(row["usage"]) == len(row["entropy"]) == 3 for row in rows)
    assert not any(row["best"] for row in rows[:3]), "weights are kept from the second half on"
    assert any(row["best"] for row in rows[3:])
