"""The rules for items that share a path: keep them, tell them apart by a suffix, or resolve them.

Shapes: I items, L levels, D the longest path.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ilrec_cli.errors import UserError
from ilrec_cli.ids._assignment import Assignment, from_codes, to_matrix, token
from ilrec_cli.ids._collisions import Space, free_last_codes, resolve, suffixed
from ilrec_cli.ids._quality import uniqueness
from ilrec_cli.ids._quantise import Quantised


def default_rule(quantises: bool) -> Literal["resolve", "keep"]:
    """Own identifiers are made unique; what was made elsewhere, and titles, are kept."""
    return "resolve" if quantises else "keep"


def quantised(found: Quantised, rule: str, key_I: np.ndarray) -> Assignment:
    """Paths of greedy codes under a rule; `key_I` ranks the items and decides ties."""
    code_IL, space = found.code_IL, Space(found.latent_ID, found.codebook_LKD)
    steps: dict[str, Any] = {}
    report = _report(rule, code_IL)
    report["codes_used_before"] = uniqueness(code_IL)["codes_per_level"]
    settled_ID = code_IL
    if rule == "resolve":
        settled_ID, steps = resolve(code_IL, space, key_I)
    elif rule == "suffix":
        settled_ID = suffixed(code_IL, key_I)
        steps = {"with_suffix": int((settled_ID[:, -1] >= 0).sum())}
    notes = {
        **found.notes,
        "collisions": {**report, **steps},
        "reconstruction": space.error(settled_ID[:, : code_IL.shape[1]]),
    }
    return from_codes(settled_ID, notes)


def given(found: Assignment, rule: str, key_I: np.ndarray) -> Assignment:
    """Paths that came without vectors, under a rule: free last codes stand in for near ones, lowest first."""
    path_ID = to_matrix(found.tokens)
    report = _report(rule, path_ID)
    if found.text and rule == "resolve":
        raise UserError("--collisions resolve: titles have no codes to choose from; use keep or suffix")
    if rule != "keep":
        if rule == "resolve":
            found, report["moved_within_prefix"] = _resolved(found, path_ID, key_I)
        found, report["with_suffix"] = _with_suffix(found, key_I)
    return found._replace(notes={**found.notes, "collisions": report})


def _report(rule: str, path_ID: np.ndarray) -> dict[str, Any]:
    before = uniqueness(path_ID)
    return {"rule": rule, **{f"{name}_before": before[name] for name in ("colliding_items", "collision_rate")}}


def _resolved(found: Assignment, path_ID: np.ndarray, key_I: np.ndarray) -> tuple[Assignment, int]:
    """(the assignment with free last codes, of the same lengths; how many items moved).

    `path_ID` numbers tokens by first appearance; what is lowest is decided by their own codes, then by their text.
    """
    token_of_number = found.tokens.flatten().dictionary_encode().dictionary
    first = np.unique(path_ID[path_ID >= 0], return_index=True)[1]
    code_of_number = found.codes.flatten().to_numpy(zero_copy_only=False)[first]
    order = np.lexsort((np.argsort(np.argsort(np.array(token_of_number.to_pylist()))), code_of_number))
    rank = np.append(np.argsort(order), -1)  # the last one is the padding's
    ranked_ID = rank[path_ID]
    settled_ID = free_last_codes(ranked_ID, key_I)
    flat, offsets = order[settled_ID[settled_ID >= 0]], found.tokens.offsets
    rebuilt = found._replace(
        codes=pa.ListArray.from_arrays(offsets, pa.array(code_of_number[flat], pa.int32())),
        tokens=pa.ListArray.from_arrays(offsets, token_of_number.take(pa.array(flat))),
    )
    return rebuilt, int((settled_ID != ranked_ID).any(1).sum())


def _with_suffix(found: Assignment, key_I: np.ndarray) -> tuple[Assignment, int]:
    """A further token, or for text a number in brackets, for the items of a path that several have."""
    number_I = suffixed(to_matrix(found.tokens), key_I)[:, -1]
    chosen = np.flatnonzero(number_I >= 0)
    if not len(chosen):
        return found, 0
    codes, tokens = found.codes.to_pylist(), found.tokens.to_pylist()
    level = _unused_level(tokens)
    for item in chosen.tolist():
        number = int(number_I[item])
        codes[item] = [*codes[item], number]
        mark = [f"{tokens[item][-1]} ({number + 1})"] if found.text else [tokens[item][-1], token(level, number)]
        tokens[item] = [*tokens[item][:-1], *mark]
    longer = found._replace(codes=pa.array(codes, found.codes.type), tokens=pa.array(tokens, found.tokens.type))
    # A title may have ended in such a number before.
    return (_with_suffix(longer, key_I)[0] if found.text else longer), len(chosen)


def _unused_level(tokens: list[list[str]]) -> int:
    """The first level below the longest path whose letter no token uses."""
    used = {name[:3] for path in tokens for name in path}
    return next(level for level in count(max(map(len, tokens))) if token(level, 0)[:3] not in used)
