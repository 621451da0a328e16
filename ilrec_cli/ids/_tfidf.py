"""Item text to vectors without any download: TF-IDF, then truncated SVD (latent semantic analysis)."""

from __future__ import annotations

import numpy as np

from ilrec_cli.errors import UserError


def encode(texts: list[str], dimensions: int, seed: int) -> np.ndarray:
    """Unit-length vectors [I, D] of the texts; D is `dimensions`, or less for a small vocabulary.

    An empty text gives the zero vector. Words are lower-cased runs of letters and digits; counts enter as
    1 + log(count).
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float64)
    try:
        matrix = words.fit_transform(texts)
    except ValueError as error:
        raise UserError(f"--encoder tfidf: the items' text has no words ({error}); choose another encoder") from error
    size = min(dimensions, matrix.shape[1] - 1, len(texts) - 1)
    if size < 1:
        return normalize(matrix).toarray().astype(np.float32)
    vectors = TruncatedSVD(size, random_state=seed).fit_transform(matrix)
    return normalize(vectors).astype(np.float32)
