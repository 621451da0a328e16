"""RQ-VAE's parts against plain NumPy float64 loops: balanced assignment, losses and their gradients, k-means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.ids import rqvae
from ilrec_cli.ids._quantise import greedy
from ilrec_cli.ids._sinkhorn import balanced, centred, sinkhorn
from ilrec_cli.ids.rqvae import kmeans
from ilrec_cli.ids.rqvae.model import Model, separation

RESIDUALS = ("detached_code", "straight_through")


# --- balanced assignment


def sinkhorn_by_loops(distance: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """As LC-Rec writes it: the whole matrix is divided by its row sums, then by its column sums."""
    rows, columns = distance.shape
    middle = (distance.max() + distance.min()) / 2
    shares = np.exp(-(distance - middle) / (distance.max() - middle + 1e-5) / epsilon)
    shares /= shares.sum()
    for _ in range(iterations):
        for row in range(rows):
            shares[row] /= shares[row].sum() * rows
        for column in range(columns):
            shares[:, column] /= shares[:, column].sum() * columns
    return shares * rows


@pytest.mark.parametrize("epsilon", [0.003, 0.05, 1.0])
@pytest.mark.parametrize(("rows", "columns"), [(24, 6), (5, 8), (1, 3), (7, 1)])
def test_sinkhorn_is_the_published_iteration(rows: int, columns: int, epsilon: float) -> None:
    distance = np.random.default_rng(rows).gamma(2.0, size=(rows, columns)) * 30
    found = sinkhorn(torch.from_numpy(distance), epsilon, 50)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, sinkhorn_by_loops(distance, epsilon, 50), rtol=1e-8, atol=1e-12)
    other = sinkhorn_by_loops(distance, epsilon, 49)
    assert rows == 1 or columns == 1 or epsilon > 0.1 or not np.allclose(found, other, rtol=1e-8, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 30), st.integers(1, 12), st.floats(-1e4, 1e4), st.floats(1e-6, 1e6), st.integers(0, 10**6),
    st.sampled_from([0.003, 0.5]),
)  # fmt: skip
def test_columns_share_the_rows_alike(
    rows: int, columns: int, low: float, scale: float, seed: int, epsilon: float
) -> None:
    """Whatever the size and sign of the distances, in float32 as they come."""
    distance = low + scale * np.random.default_rng(seed).gamma(0.5, size=(rows, columns))
    found = sinkhorn(torch.from_numpy(distance.astype(np.float32)), epsilon, 200).numpy()
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(0), rows / columns, rtol=1e-9)
    if epsilon == 0.5:  # long converged
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_balanced_takes_turns_where_the_nearest_would_crowd_one_column() -> None:
    distance = torch.tensor([[0.0, 1.0], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    assert distance.argmin(1).tolist() == [0, 0, 0, 0]
    assert balanced(distance, 0.1, 50).tolist() == [0, 0, 1, 1]
    assert balanced(torch.tensor([[3.0, 1.0, 2.0]]), 0.003, 50).tolist() == [1], "a single row keeps its nearest"


def test_extreme_distances_stay_in_range() -> None:
    """The widest spread: a column that is far from every row, and a row that is far from every column."""
    distance = torch.zeros(6, 4)
    distance[:, 3] = 1e30
    distance[5] = 1e30
    for wild in (distance, -distance, torch.full((6, 4), 7.0)):
        assert centred(wild).abs().max() <= 1
        assert sinkhorn(wild, 0.003, 50).isfinite().all()


# --- losses and gradients


def small_model(**options: Any) -> Model:
    """A linear encoder and decoder in float64, so that gradients fit on a line."""
    config = rqvae.Config(**({"hidden": (), "code_size": 3, "levels": 3, "separation": 0.0} | options))
    model = Model(5, 4, config, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        model.codebook_LKD.copy_(torch.from_numpy(np.random.default_rng(1).normal(size=(3, 4, 3)) * 0.5))
    return model


def by_loops(model: Model, vectors: np.ndarray, codes: np.ndarray) -> dict[str, Any]:
    """Losses and the gradients of the total at the codes taken, derived by hand, element by element."""
    config, (rows, levels) = model.config, codes.shape
    books = model.codebook_LKD.detach().numpy()
    encoder, decoder = (part[0].weight.detach().numpy() for part in (model.encoder, model.decoder))
    latent = vectors @ encoder.T
    elements = latent.size
    book_gradient, latent_gradient = np.zeros_like(books), np.zeros_like(latent)
    codebook = commitment = 0.0
    quantised = np.zeros_like(latent)
    for row in range(rows):
        residual = latent[row].copy()
        for level in range(levels):
            code = codes[row, level]
            gap = residual - books[level, code]
            codebook += (gap**2).sum() / elements / levels
            commitment += (gap**2).sum() / elements / levels
            book_gradient[level, code] += config.quantisation_weight * -2 * gap / elements / levels
            if level == 0 or config.residual == "detached_code":  # a straight-through residual has no gradient
                latent_gradient[row] += config.quantisation_weight * config.commitment * 2 * gap / elements / levels
            quantised[row] += books[level, code]
            residual = gap
    decoded = quantised @ decoder.T
    latent_gradient += 2 * (decoded - vectors) @ decoder / vectors.size
    return {
        "reconstruction": ((decoded - vectors) ** 2).mean(), "codebook": codebook, "commitment": commitment,
        "codebook_LKD": book_gradient, "encoder.0.weight": latent_gradient.T @ vectors,
        "decoder.0.weight": 2 * (decoded - vectors).T @ quantised / vectors.size,
    }  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_losses_and_gradients_are_those_derived_by_hand(residual: str, training: bool) -> None:
    model = small_model(residual=residual, commitment=0.4, quantisation_weight=0.7)
    vectors = np.random.default_rng(2).normal(size=(6, 5))
    losses = model.losses(torch.from_numpy(vectors), training=training)
    total = losses.total(model.config)
    total.backward()
    want = by_loops(model, vectors, losses.code_BL.numpy())
    for name in ("reconstruction", "codebook", "commitment"):
        assert getattr(losses, name).item() == pytest.approx(want[name], rel=1e-10)
    in_all = want["reconstruction"] + 0.7 * (want["codebook"] + 0.4 * want["commitment"])
    assert total.item() == pytest.approx(in_all, rel=1e-10)
    for name, parameter in model.named_parameters():
        if name in want:
            np.testing.assert_allclose(parameter.grad, want[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_only_the_detached_code_lets_deeper_levels_reach_the_encoder() -> None:
    """LC-Rec's residual r - (r + sg(c - r)) has no gradient, so its levels 2 to L never pull on the encoder."""
    for residual in RESIDUALS:
        model = small_model(residual=residual)
        latent = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
        taken = model.quantise(latent, training=False)
        (gradient,) = torch.autograd.grad(taken.commitment, latent)
        first = model.codebook_LKD[0].detach()[taken.code_BL[:, 0]]
        only_first = 2 * (latent - first) / latent.numel() / 3
        assert torch.allclose(gradient, only_first) == (residual == "straight_through")


def test_codes_are_the_greedy_ones_and_only_the_last_level_is_balanced_in_training() -> None:
    model = small_model(code_size=3)
    latent = torch.randn(40, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    nearest = greedy(latent.numpy(), list(model.codebook_LKD.detach().numpy()))[0]
    assert (model.quantise(latent, training=False).code_BL.numpy() == nearest).all()
    taken = model.quantise(latent, training=True)
    assert (taken.nearest_BL.numpy() == nearest).all()
    assert (taken.code_BL[:, :-1].numpy() == nearest[:, :-1]).all()
    counts = np.bincount(taken.code_BL[:, -1], minlength=4)
    assert np.ptp(counts) < np.ptp(np.bincount(nearest[:, -1], minlength=4))
    off = small_model(sinkhorn_epsilon=0.0)
    assert (off.quantise(latent, training=True).code_BL.numpy() == nearest).all()


def test_separation_pushes_only_latents_with_the_same_path() -> None:
    latent = torch.tensor([[0.0, 0], [5, 5], [0.3, 0.4], [1, 1], [0, 9.0]], dtype=torch.float64, requires_grad=True)
    codes = torch.tensor([[1, 2], [0, 2], [1, 2], [1, 2], [0, 2]])
    loss = separation(latent, codes, torch.tensor(2.0, dtype=torch.float64))
    # Path (1, 2): rows 0, 2, 3 at distances 0.5 and |(0.7, 0.6)|; path (0, 2): rows 1, 4 farther apart than the margin.
    want = ((1 - 0.5 / 2) + (1 - np.hypot(0.7, 0.6) / 2)) / 5
    assert loss.item() == pytest.approx(want)
    (gradient,) = torch.autograd.grad(loss, latent)
    np.testing.assert_allclose(
        gradient[0], np.array([0.6, 0.8]) / 2 / 5, rtol=1e-9
    )  # down the gradient: away from row 2
    assert (gradient[[1, 4]] == 0).all()
    alone = separation(latent, torch.arange(5)[:, None], torch.tensor(2.0))
    assert alone.item() == 0


# --- k-means


def lloyd_by_loops(points: np.ndarray, centres: np.ndarray, iterations: int) -> np.ndarray:
    centres = centres.astype(np.float64).copy()
    for _ in range(iterations):
        code = [int(((point - centres) ** 2).sum(1).argmin()) for point in points]
        for number in range(len(centres)):
            members = [point for point, own in zip(points, code, strict=True) if own == number]
            if members:
                centres[number] = np.mean(members, axis=0)
    return centres


def test_lloyd_from_the_same_start() -> None:
    points = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    start = points[:12]
    for iterations in (1, 2, 7):
        found = kmeans.lloyd(points, start, iterations)
        np.testing.assert_allclose(found, lloyd_by_loops(points, start, iterations), rtol=2e-5, atol=1e-5)


def test_every_level_starts_from_k_means_of_what_the_levels_before_left() -> None:
    points = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    books = kmeans.codebooks(points, 3, 8, 10, np.random.default_rng(5))
    rng, residual = np.random.default_rng(5), points.astype(np.float64)
    for book in books:
        start = kmeans.plus_plus(residual.astype(np.float32), 8, rng)
        want = lloyd_by_loops(residual, start, 10)
        np.testing.assert_allclose(book, want, rtol=1e-4, atol=1e-4)
        residual = np.stack([point - want[((point - want) ** 2).sum(1).argmin()] for point in residual])


def test_the_start_takes_different_points_and_prefers_far_ones() -> None:
    points = np.repeat(np.arange(6, dtype=np.float32)[:, None] * [1.0, -2.0], 5, axis=0).astype(np.float32)
    for seed in range(20):
        chosen = kmeans.plus_plus(points, 6, np.random.default_rng(seed))
        assert len(np.unique(chosen, axis=0)) == 6, "as many codes as different points: each once"
    assert kmeans.plus_plus(points[:1], 3, np.random.default_rng(0)).tolist() == points[[0, 0, 0]].tolist()
    crowd = np.zeros((1000, 1), dtype=np.float32)
    crowd[17] = 100
    assert all(100 in kmeans.plus_plus(crowd, 2, np.random.default_rng(seed)) for seed in range(20))


def test_a_centre_without_points_moves_to_the_farthest_point() -> None:
    points = np.array([[0.0], [1.0], [9.0]], dtype=np.float32)
    start = np.array([[0.5], [-50.0]], dtype=np.float32)
    assert sorted(kmeans.lloyd(points, start, 5).ravel().tolist()) == [0.5, 9.0]
