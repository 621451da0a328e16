"""RQ-VAE on real item text: nearly as few collisions as identical texts force, and fewer than residual k-means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import faiss
import numpy as np
import pytest

from ilrec_cli.ids import _tfidf, rqvae
from ilrec_cli.ids._quantise import Job
from ilrec_cli.ids.rqvae.quantise import fit

SHARED = Path(os.environ.get("ILREC_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
ITEMS = SHARED / "industrial" / "Industrial_and_Scientific.item.json"

pytestmark = [pytest.mark.realdata, pytest.mark.soak]


@pytest.mark.skipif(not ITEMS.is_file() and not os.environ.get("ILREC_REQUIRE_REAL_DATA"), reason=f"no {ITEMS}")
def test_collisions_and_usage_of_4_x_256_on_industrial() -> None:
    """About a minute on one core."""
    items = json.loads(ITEMS.read_text(encoding="utf-8"))
    texts = [". ".join(filter(None, (items[key][name] for name in ("title", "description", "brand")))) for key in
             sorted(items, key=int)]  # fmt: skip
    vectors_ID = _tfidf.transform(texts, _tfidf.fit(texts, 64, seed=0))
    found = fit(vectors_ID, rqvae.Config(codes=256), np.random.default_rng(0), Job())
    floor = collision_rate(np.unique(vectors_ID, axis=0, return_inverse=True)[1].reshape(-1, 1))
    assert floor == pytest.approx(11 / 3686)
    assert collision_rate(found.code_IL) <= floor + 0.015
    assert collision_rate(found.code_IL) <= collision_rate(residual_kmeans(vectors_ID))
    assert all(share >= 0.95 for share in found.notes["training"]["usage"])


def collision_rate(code_IL: np.ndarray) -> float:
    return 1 - len(np.unique(code_IL, axis=0)) / len(code_IL)


def residual_kmeans(vectors_ID: np.ndarray) -> np.ndarray:
    """Codes of 4 x 256 without a network."""
    residual_ID, codes = vectors_ID.copy(), []
    for level in range(4):
        kmeans = faiss.Kmeans(residual_ID.shape[1], 256, niter=25, seed=level, max_points_per_centroid=10**6,
                              min_points_per_centroid=1)  # fmt: skip
        kmeans.train(residual_ID)
        codes.append(kmeans.assign(residual_ID)[1])
        residual_ID = residual_ID - kmeans.centroids[codes[-1]]
    return np.stack(codes, 1)
