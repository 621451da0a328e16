"""SASRec: a causal transformer over item embeddings, trained at every position with the full softmax.

Source: W.-C. Kang, J. McAuley, "Self-attentive sequential recommendation", ICDM 2018, arXiv 1808.09781. The paper
trains with one negative and binary cross-entropy; full-softmax cross-entropy over the catalogue is stronger
(A. Klenitskiy, A. Vasilev, RecSys 2023, arXiv 2309.07602). Names of settings as in RecBole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ilrec_cli.cf._settings import Transformer

SANITY = False
TRAINED = True
SEQUENTIAL = True
PRESETS: dict[str, dict[str, Any]] = {"instruments": {"hidden_dropout_prob": 0.3}}


@dataclass(frozen=True, kw_only=True)
class Config(Transformer):
    pass
