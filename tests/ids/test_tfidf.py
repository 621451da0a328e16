"""TF-IDF vectors: as computed by hand, the same in any order, and the same space for texts that come later."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest

from ilrec_cli.errors import UserError
from ilrec_cli.ids import _tfidf

NOUNS, COLOURS = ("guitar", "tent", "kettle", "ladder", "drill"), ("red", "blue", "green", "grey")
TEXTS = [f"{colour} {noun} {noun if n % 3 else 'Set'} no. {n}" for n, (colour, noun) in
         enumerate((colour, noun) for colour in COLOURS for noun in NOUNS)]  # fmt: skip


def by_hand(texts: list[str]) -> np.ndarray:
    """Unit rows of (1 + log count) * (1 + log((1 + texts) / (1 + texts with the word)))."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    words = sorted({word for count in counts for word in count})
    rows = []
    for count in counts:
        row = []
        for word in words:
            with_word = sum(word in other for other in counts)
            idf = 1 + math.log((1 + len(texts)) / (1 + with_word))
            row.append((1 + math.log(count[word])) * idf if count[word] else 0.0)
        rows.append(np.array(row) / (math.sqrt(sum(value**2 for value in row)) or 1))
    return np.array(rows)


def test_like_texts_lie_together_and_an_empty_one_at_zero() -> None:
    texts = ["red guitar strings", "blue guitar strings", "camping tent", "camping tent two persons", ""]
    vectors = _tfidf.transform(texts, _tfidf.fit(texts, 3, seed=0))
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.5 > abs(likeness[0, 2])
    assert likeness[2, 3] > 0.5
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0], atol=1e-6)


def test_vectors_are_the_best_projection_of_tfidf_computed_by_hand() -> None:
    """Up to signs, which likeness does not see: the leading right singular vectors, from NumPy's full SVD."""
    vectors = _tfidf.transform(TEXTS, _tfidf.fit(TEXTS, 6, seed=0))
    matrix = by_hand(TEXTS)
    projected = matrix @ np.linalg.svd(matrix, full_matrices=False)[2][:6].T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, projected @ projected.T, atol=1e-3)  # the SVD is a randomised one


def test_without_reduction_the_words_themselves_are_the_vector() -> None:
    vectors = _tfidf.transform(["tent"], _tfidf.fit(["tent"], 8, seed=0))
    np.testing.assert_array_equal(vectors, [[1.0]])


def test_the_order_of_texts_moves_no_bit() -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = [TEXTS[row] for row in order]
    straight = _tfidf.transform(TEXTS, _tfidf.fit(TEXTS, 6, seed=0))
    assert np.array_equal(_tfidf.transform(shuffled, _tfidf.fit(shuffled, 6, seed=0)), straight[order])
    assert not np.array_equal(_tfidf.transform(TEXTS, _tfidf.fit(TEXTS[:-1], 6, seed=0)), straight), "of other texts"


def test_later_texts_get_the_vectors_that_the_fit_gave_them() -> None:
    state = _tfidf.fit(TEXTS, 6, seed=0)
    together = _tfidf.transform(TEXTS, state)
    for row in (0, 7, len(TEXTS) - 1):
        assert np.array_equal(_tfidf.transform([TEXTS[row]], state)[0], together[row])
    assert not _tfidf.transform(["zzz"], state).any(), "no word is known"


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(UserError, match="no words"):
        _tfidf.fit(["...", "-"], 3, seed=0)
