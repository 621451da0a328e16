"""Recommender: a trained model and its data, from histories of original ids to items with titles and scores.

Shapes: B rows, T history items, I items, k listed items.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError, abridged
from ilrec_cli.histories import gather_runs
from ilrec_cli.ranking import MOST_BEAMS
from ilrec_cli.settings import OpenModel
from ilrec_cli.stages import _engines, _explain, _inputs
from ilrec_cli.stages._engines import Engine

Unknown = Literal["error", "skip"]
MASK_CELLS = 32_000_000  # rows x items of one call: bounds memory, not the result
SEARCH_CELLS = 100_000_000  # the same for rows x beams x beams


class Recommendation(NamedTuple):
    """An item by its original id, with its title and its score in the model's own terms (higher is better)."""

    item: str
    title: str
    score: float


class Query(NamedTuple):
    """One history in item numbers, and what may be listed for it."""

    history: np.ndarray  # oldest first, as long as it is
    user: int  # -1: nobody that the data know
    k: int
    hidden: np.ndarray  # items that are not to be listed
    allow: np.ndarray | None  # the only items that may be listed; None: all
    skipped: int  # ids of the history that the data do not have


class UnknownIdError(UserError):
    """An original id that the data do not have."""

    def __init__(self, where: str, what: str, value: str, known: int):
        super().__init__(f"{where}{what} '{abridged(value)}' is not among the {known:,} {what}s")
        self.value = value


class Recommender:
    """Answers from a run or a collaborative model; the same lists as `ilrec evaluate` under the same protocol.

    Thread-safe: calls wait for one another.

    >>> recommender = Recommender.load("ilrec-work/Instruments/runs/ilrec")         # doctest: +SKIP
    >>> recommender.recommend([["B000FFWZKI", "B000KGYAYQ"]], k=3)[0][0].title      # doctest: +SKIP
    """

    def __init__(self, config: OpenModel):
        self.config = config
        self.data: Artifact = _inputs.read_data(config)
        path, self.kind = _inputs.find_model(config, config.run)
        self.model = artifacts.read(path, self.kind)
        self.model.require_parent(self.data, "data")
        items = self.data.table("items")
        self.raw_ids: list[str] = items["raw_id"].to_pylist()
        self.titles: list[str] = items["title"].to_pylist()
        self.numbers = {raw: number for number, raw in enumerate(self.raw_ids)}
        self.sequences = _inputs.sequences(self.data)
        self.users = {raw: number for number, raw in enumerate(self.data.table("users")["raw_id"].to_pylist())}
        self.max_history = int(self.data.json("card.json")["max_history"])
        self._lock = threading.Lock()

    @cached_property
    def engine(self) -> Engine:
        """The model itself, loaded when it is first needed: mistakes in a request cost no loading."""
        return _engines.opened(self.config, self.model, self.kind, self.data)

    @classmethod
    def load(
        cls, run: str | Path, *, dataset: str | None = None, work: str | Path = "ilrec-work",
        data: str | Path | None = None, beams: int = 20, normalize: Literal["vocab", "ids", "trie"] | None = None,
        device: str = "auto", dtype: Literal["float32", "bfloat16"] = "float32", batch_size: int = 64,
        cf_guidance: float | None = None, cf: str | None = None,
    ) -> Recommender:  # fmt: skip
        """A model by its folder (`ilrec-work/Instruments/runs/ilrec`, or `.../cf/sasrec`), or by name with `dataset`."""
        if dataset is None:
            folder = Path(run).resolve()
            folder = folder.parent if folder.name == "train" else folder
            if not artifacts.exists(folder / "train"):
                raise UserError(f"no trained model at {run}. Give its folder, WORK/DATASET/runs/NAME, or a dataset")
            run, dataset, work = str(folder), folder.parents[1].name, folder.parents[2]
        where = OpenModel(dataset=dataset, work=Path(work), data=None if data is None else Path(data), run=str(run))
        where = replace(where, beams=beams, normalize=normalize, device=device, dtype=dtype, batch_size=batch_size)
        where = replace(where, cf_guidance=cf_guidance, cf=cf)
        recommender = cls(where)
        assert recommender.engine is not None  # loaded now, so that the first answer takes no longer than others
        return recommender

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, allow: Iterable[str] | None = None,
        deny: Iterable[str] = (), hide_seen: bool = True, unknown: Unknown = "error", users: Sequence[str] | None = None,
    ) -> list[list[Recommendation]]:  # fmt: skip
        """The best k items after each history (original ids, oldest first), best first; fewer where fewer are allowed.

        Models see the last `max_history` items; `hide_seen` leaves out all. `users`, one for each history: only
        models with a vector for every user make use of them. Ids that the data do not have, and empty histories, are
        a `UserError`; with `unknown="skip"` ids are passed over, and an empty history gets an empty list.
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise TypeError("histories is a list of lists of item ids; for one history: recommend([history])")
        if unknown not in get_args(Unknown):
            raise ValueError(f"unknown is '{unknown}', expected one of {get_args(Unknown)}")
        allowed = None if allow is None else self.items(allow, "allow: ", unknown)
        denied = self.items(deny, "deny: ", unknown)
        known = [-1] * len(histories) if users is None else [self.user(user, "users: ") for user in users]
        queries = [
            self.query(history, k, where=f"history {row}: ", user=user, deny=denied, allow=allowed, hide_seen=hide_seen, unknown=unknown)
            for row, (history, user) in enumerate(zip(histories, known, strict=True))
        ]  # fmt: skip
        return self.answer(queries)

    def query(
        self, history: Sequence[str], k: int, *, where: str = "", user: int = -1, hide_seen: bool = True,
        allow: np.ndarray | None = None, deny: np.ndarray | None = None, unknown: Unknown = "error",
    ) -> Query:  # fmt: skip
        """One history as the model takes it; `where` begins the message of an error."""
        if k < 1:
            raise UserError(f"{where}k is {k}, expected at least 1")
        k = min(k, len(self.raw_ids))
        if self.kind == "run" and self._beams(k) > MOST_BEAMS:
            asked = f"k is {k:,}" if k > MOST_BEAMS else f"--beams is {self.config.beams:,}"
            raise UserError(
                f"{where}{asked}; the search of a language model takes at most {MOST_BEAMS:,}. Collaborative models list "
                "any number of items"
            )
        numbers = self.items(history, where, unknown)
        if not len(numbers) and unknown == "error":
            raise UserError(f"{where}the history is empty, and there is nothing to go by")
        if isinstance(self.engine, _engines.Search):
            self.engine.ranker.check(numbers[-self.max_history :], where)
        hidden = [numbers if hide_seen else numbers[:0], *([] if deny is None else [deny])]
        return Query(numbers, user, k, np.concatenate(hidden), allow, len(history) - len(numbers))

    def items(self, raw: Iterable[str], where: str, unknown: Unknown = "error") -> np.ndarray:
        """Item numbers of original ids."""
        found = []
        for each in raw:
            number = self.numbers.get(each)
            if number is not None:
                found.append(number)
            elif unknown == "error":
                raise UnknownIdError(where, "item", str(each), len(self.numbers))
        return np.array(found, dtype=np.int64)

    def user(self, raw: str, where: str) -> int:
        """The number of a user."""
        if raw not in self.users:
            raise UnknownIdError(where, "user", str(raw), len(self.users))
        return self.users[raw]

    def history(self, user: int) -> list[str]:
        """A user's whole sequence, as original ids."""
        start, stop = self.sequences.offsets[user : user + 2]
        return [self.raw_ids[item] for item in self.sequences.items[start:stop]]

    def answer(self, queries: Sequence[Query]) -> list[list[Recommendation]]:
        """The list of every query, whatever batches they are ranked in; an empty history gets an empty list."""
        asked = [row for row, query in enumerate(queries) if len(query.history)]
        # As many beams as items; a list must not depend on what others in its batch ask for.
        asked.sort(key=lambda row: (self._beams(queries[row].k), -min(len(queries[row].history), self.max_history)))
        answers: list[list[Recommendation]] = [[] for _ in queries]
        rows = min(self.config.batch_size, MASK_CELLS // len(self.raw_ids))
        while asked:
            beams = self._beams(queries[asked[0]].k)
            size = max(1, min(rows, SEARCH_CELLS // beams**2))
            batch = [row for row in asked[:size] if self._beams(queries[row].k) == beams]
            for row, listed in zip(batch, self._ranked([queries[row] for row in batch], beams), strict=True):
                answers[row] = listed
            asked = asked[len(batch) :]
        return answers

    def _beams(self, k: int) -> int:
        return min(max(self.config.beams, k), len(self.raw_ids))

    def _ranked(self, queries: list[Query], beams: int) -> list[list[Recommendation]]:
        length_B = np.array([min(len(query.history), self.max_history) for query in queries])
        flat = np.concatenate([query.history for query in queries])
        end_B = np.cumsum([len(query.history) for query in queries])
        history_BT = gather_runs(flat, end_B - length_B, length_B)
        user_B = np.array([query.user for query in queries])
        with self._lock:
            item_Bk, score_Bk = self.engine.rank(
                history_BT, user_B, max(query.k for query in queries), self._allowed(queries), beams
            )
        return [
            [
                Recommendation(self.raw_ids[item], self.titles[item], score)
                for item, score in zip(item_k[: query.k], score_k, strict=False)
                if item >= 0
            ]
            for query, item_k, score_k in zip(queries, item_Bk.tolist(), score_Bk.tolist(), strict=True)
        ]

    def _allowed(self, queries: list[Query]) -> np.ndarray | None:
        """allowed_BI: which items may be listed; None where all may."""
        if not any(len(query.hidden) or query.allow is not None for query in queries):
            return None
        allowed_BI = np.ones((len(queries), len(self.raw_ids)), dtype=bool)
        for row, query in enumerate(queries):
            if query.allow is not None:
                allowed_BI[row] = False
                allowed_BI[row, query.allow] = True
            allowed_BI[row, query.hidden] = False
        return allowed_BI

    def explain(self, history: Sequence[str], item: str | None = None) -> dict[str, Any]:
        """How a language model comes to an item (the best by default): layers, alpha, and steps with tokens considered.

        `_explain.explain` says what each token has.
        """
        if not isinstance(self.engine, _engines.Search):
            raise UserError(f"only language models have layers to show; '{self.model.name}' is a collaborative model")
        best = self.recommend([history], 1)[0] if item is None else []
        if item is None and not best:
            raise UserError("no item is left to explain: the history holds all of them. Name one")
        wanted = best[0].item if item is None else item
        (number,) = self.items([wanted], "item to explain: ").tolist()
        shown = self.items(history, "history: ")[-self.max_history :]
        with self._lock:
            made = _explain.explain(self.engine.ranker, self.model, shown, number)
        return {"item": wanted, "title": self.titles[number], **made}

    def card(self) -> dict[str, Any]:
        """What answers: model, data, protocol, and what `ilrec evaluate` found under which protocols."""
        return _engines.card(self.config, self.model, self.kind, self.data)
