"""Item text to vectors without any download: TF-IDF, then truncated SVD (latent semantic analysis).

Shapes: I texts, V words, S dimensions kept, D dimensions of a vector (S, or V where nothing was reduced).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ilrec_cli.errors import UserError


class State(NamedTuple):
    """All that encodes a text: words in order, their weights, and the directions kept (none: all words are)."""

    words: list[str]
    idf_V: np.ndarray
    component_SV: np.ndarray | None


def fit(texts: list[str], dimensions: int, seed: int) -> State:
    """The space of these texts; it does not depend on their order. `UserError` where they hold no words.

    Words are lower-cased runs of letters and digits; counts enter as 1 + log(count). The number of dimensions is less
    than asked for where there are fewer words or texts.
    """
    from sklearn.decomposition import TruncatedSVD

    words = _vectorizer(None)
    try:
        matrix_IV = words.fit_transform(sorted(texts))
    except ValueError as error:
        raise UserError(f"--encoder tfidf: the items' text has no words ({error}); choose another encoder") from error
    component_SV = None
    size = min(dimensions, matrix_IV.shape[1] - 1, len(texts) - 1)
    if size >= 1:
        component_SV = TruncatedSVD(size, random_state=seed).fit(matrix_IV).components_
    return State(words.get_feature_names_out().tolist(), words.idf_, component_SV)


def transform(texts: list[str], state: State) -> np.ndarray:
    """Unit-length vectors [I, D] (float32); a text without known words gives the zero vector.

    A text's vector is the same, bit for bit, whatever other texts are there: those of the fit and later ones.
    """
    from sklearn.preprocessing import normalize

    words = _vectorizer(state.words)
    words.idf_ = state.idf_V
    vector = words.transform(texts)
    vector = vector.toarray() if state.component_SV is None else vector @ state.component_SV.T
    return np.asarray(normalize(vector), dtype=np.float32)


def _vectorizer(words: list[str] | None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(vocabulary=words, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float64)
