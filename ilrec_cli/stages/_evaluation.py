"""A model's evaluation, from its protocol to a finished folder: ranked in chunks, by one process or several, resumable.

rankings.parquet and metrics.json do not depend on how many processes there were or how often the work was stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ilrec_cli import artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import targets
from ilrec_cli.metrics import KS, ListCounts
from ilrec_cli.provenance import provenance
from ilrec_cli.ranking import LISTED, Rankings
from ilrec_cli.schemas import TABLES
from ilrec_cli.stages import _beam_recall, _candidate_sets, _chunks, _inputs, _protocol, _rankings, _texts
from ilrec_cli.stages._candidate_sets import Sets
from ilrec_cli.stages._summary import Judged, summary
from ilrec_cli.stages._texts import Named, Written
from ilrec_cli.stages._workers import Workers

VERSION = 2  # of metrics.json
COLUMNS = ("items", "scores", "rank", "first", "sharing")  # of a chunk


class Opened(NamedTuple):
    """A model that ranks: (user_B, end_B) -> Rankings, or with the text it wrote; and which identifier each item has."""

    rank: Callable[[np.ndarray, np.ndarray], Rankings | Written | Named]
    leaf_I: np.ndarray


@dataclass(frozen=True)
class Plan:
    """One evaluation: of which model, under which protocol, with which metrics."""

    model: Artifact
    data: Artifact
    rules: dict[str, Any]
    kind: str  # "cf" or "run"
    ks: tuple[int, ...] = KS
    batch_size: int = _chunks.CHUNK
    overwrite: bool = False
    more: dict[str, Any] = field(default_factory=dict)  # what metrics.json says besides
    searched: Path | None = None  # of exact scores: the evaluation whose search they judge
    others: dict[str, Artifact] = field(default_factory=dict)  # parents besides: collaborative model, encoder

    @property
    def folder(self) -> Path:
        """Evaluations lie beside the run's `train` part."""
        return self.model.path.parent / "eval" / _protocol.folder(self.rules)

    @property
    def writes(self) -> bool:
        """Whether the model writes free text, which is kept."""
        return self.rules.get("search") in ("free", "names")

    @cached_property
    def sets(self) -> Sets | None:
        """Every event's candidates, where they alone are ranked."""
        return None if self.rules["candidates"] == _protocol.FULL else Sets.of(self.data)

    @property
    def listed(self) -> int:
        return max(LISTED, *self.ks)

    @cached_property
    def events(self) -> tuple[np.ndarray, ...]:
        """(event, user, end) of the split, or of the users drawn from it, by event number."""
        events = _inputs.events(self.data, self.rules["split"])
        if not len(events[0]):
            raise UserError(
                f"{self.data.path}: the split '{self.rules['split']}' has no event (users need at least 3 interactions)"
            )
        chosen = _inputs.draw_users(events[1], self.rules.get("limit_users"), self.rules.get("users_drawn_by_seed", 0))
        if self.sets is not None:
            chosen &= self.sets.has(*events[1:])
            if not chosen.any():
                raise UserError(f"{self.data.path}: no event of the split '{self.rules['split']}' has candidates")
        order = np.argsort(events[0][chosen], kind="stable")
        return tuple(column[chosen][order] for column in events)

    def answered(self, ks: Iterable[int]) -> list[int]:
        """The list lengths that a search over identifiers can answer: it finds as many of them as it has beams."""
        beams = self.rules["beams"] if self.rules.get("search") in ("beams", "exact") else None
        return [k for k in ks if beams is None or k <= beams]

    @property
    def parents(self) -> dict[str, Artifact]:
        return {"run": self.model, "data": self.data, **self.others}


def run(plan: Plan, open_model: Callable[[], Opened], workers: Workers, console: Console) -> dict[str, Any]:
    """What metrics.json says: of an evaluation that is there, or of one that is made now."""
    done = None if plan.overwrite else known(plan)
    workers.wait()  # nobody looks any more
    if done is not None:
        console.say(f"{plan.model.name}: evaluated already, in {plan.folder}")
        return done
    scratch = _chunks.scratch_of(plan.folder)
    identity = {
        "version": VERSION, "tables": TABLES["rankings"][0], "protocol": plan.rules, "listed": plan.listed,
        "batch_size": plan.batch_size, "parents": {role: parent.digest for role, parent in plan.parents.items()},
        "device": workers.device.type, "packages": provenance()["packages"],
    }  # fmt: skip
    replaced = _present(plan.folder) if plan.overwrite else None
    hold = _chunks.opened(scratch, identity, replaced) if workers.is_main else nullcontext()
    with hold:
        workers.wait()  # the folder is ready
        pace = _rank_missing(plan, open_model, workers, console)
        workers.wait()  # all chunks are there
        if workers.is_main:
            _merge(plan, scratch, pace)
            _chunks.remove(scratch)
    workers.wait()  # the result is there
    found = known(plan)
    assert found is not None
    console.say(
        f"{plan.model.name}: {len(plan.events[0]):,} events in {pace['seconds']:.0f} s"
        + (f" ({pace['users_per_second']:,.0f} users a second)" if pace["users_per_second"] else "")
    )
    return found


def known(plan: Plan) -> dict[str, Any] | None:
    """metrics.json of this very evaluation, if it was made before with these metrics and is whole."""
    if not artifacts.exists(plan.folder):
        return None
    try:
        done = artifacts.read(plan.folder, "eval")
    except UserError:  # damaged: whoever reads it says so, and to evaluate again
        return None
    if done.manifest["parents"] != {role: parent.digest for role, parent in plan.parents.items()}:
        return None
    found = done.json("metrics.json")
    same = found.get("version") == VERSION and found["protocol"] == plan.rules
    # Before, metrics beyond the beams were written too; they meant nothing.
    meant = plan.searched is not None or plan.answered(found["ks"]) == found["ks"]
    return found if same and meant and set(plan.ks) <= set(found["ks"]) else None


def _present(folder: Path) -> str:
    """Which result is there: changes whenever it is made again."""
    if not artifacts.exists(folder):
        return "none"
    files = [folder / name for name in ("manifest.json", "provenance.json")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()


def pace_of(folder: Path) -> float | None:
    """Users a second of a finished evaluation, all its processes together."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])["users_per_second"] if lines else None


def _rank_missing(plan: Plan, open_model: Callable[[], Opened], workers: Workers, console: Console) -> dict[str, Any]:
    """Rank this process's share of the chunks that are not there yet; how fast it went."""
    scratch, event_E = _chunks.scratch_of(plan.folder), plan.events[0]
    chunks = _chunks.split(len(event_E), plan.batch_size)
    missing = [index for index in range(len(chunks)) if _chunks.load(scratch, index) is None]
    workers.wait()  # everybody counted the same files before one of them adds to them
    if len(missing) < len(chunks):
        console.say(f"{plan.model.name}: {len(chunks) - len(missing)} of {len(chunks)} chunks are there already")
    mine = [(index, chunks[index]) for index in missing[workers.index :: workers.count]]
    started = time.perf_counter()
    if mine:
        model = open_model()
        started = time.perf_counter()
        for index, columns, seconds in _ranked(plan, model, mine, console):
            _chunks.save(scratch, index, columns, seconds)
        workers.wait()
    else:
        workers.wait()
    seconds = time.perf_counter() - started
    events = sum(chunks[index].stop - chunks[index].start for index in missing)
    return {"events": len(event_E), "ranked_now": events, "seconds": round(seconds, 3),
            "users_per_second": round(events / seconds, 2) if events and seconds else None,
            "processes": workers.count, "threads": torch.get_num_threads(), "device": workers.device.type,
            "batch_size": plan.batch_size}  # fmt: skip


def _ranked(
    plan: Plan, model: Opened, mine: list[tuple[int, slice]], console: Console
) -> Iterator[tuple[int, dict[str, np.ndarray], float]]:
    """(chunk, columns, seconds) one after another; in a chunk long histories come first, and like lengths together."""
    _, user_E, end_E = plan.events
    target_E = targets(_inputs.sequences(plan.data), user_E, end_E)
    with console.bar(sum(chunk.stop - chunk.start for _, chunk in mine), plan.model.name) as forward:
        for index, chunk in mine:
            started = time.perf_counter()
            order = chunk.start + np.argsort(-end_E[chunk], kind="stable")
            parts = []
            for start in range(0, len(order), plan.batch_size):
                rows = order[start : start + plan.batch_size]
                parts.append(_guarded(plan, model, user_E[rows], end_E[rows]))
                forward(len(rows))
            back = np.argsort(order, kind="stable")
            item, score, rank, *text = (np.concatenate(column)[back] for column in zip(*parts, strict=True))
            target = target_E[chunk]
            same_leaf = np.where(item >= 0, model.leaf_I[item], -1) == model.leaf_I[target][:, None]
            first = np.where(same_leaf.any(1), same_leaf.argmax(1), -1)
            sharing = _sharing(plan, model.leaf_I, (user_E[chunk], end_E[chunk]), target)
            columns = (item, score.astype(np.float32), rank, first, sharing)
            texts = _texts.columns(*text) if text else {}
            yield index, dict(zip(COLUMNS, columns, strict=True)) | texts, time.perf_counter() - started


def _sharing(plan: Plan, leaf_I: np.ndarray, events: tuple[np.ndarray, np.ndarray], target_E: np.ndarray) -> np.ndarray:
    """How many of what is ranked have the target's identifier."""
    if plan.sets is None:
        return np.asarray(np.bincount(leaf_I)[leaf_I[target_E]])
    return np.asarray((leaf_I[plan.sets.find(*events)] == leaf_I[target_E][:, None]).sum(1))


def _guarded(plan: Plan, model: Opened, user_B: np.ndarray, end_B: np.ndarray) -> Rankings | Written | Named:
    """Rank a batch. Where memory does not suffice, say so: another search would be another result."""
    try:
        return model.rank(user_B, end_B)
    except (MemoryError, RuntimeError) as error:
        if not devices.out_of_memory(error):
            raise
        advice = {
            "run": f"batches of {plan.batch_size} (--batch-size). Choose smaller ones; --dtype bfloat16 halves the model, but "
            "is another protocol. The search was not changed; what is finished counts only with the same batch size",
            "cf": "this collaborative model, whose batches have one size. Free some, or choose another --device. What is "
            "finished counts when the command is given again",
        }  # fmt: skip
        raise UserError(f"{plan.model.name}: memory does not suffice for {advice[plan.kind]}") from error


def _merge(plan: Plan, scratch: Path, pace: dict[str, Any]) -> None:
    """Write the folder from all chunks, a chunk at a time, every event once."""
    event_E, user_E, end_E = plan.events
    popularity_I = _inputs.training_popularity(plan.data)
    target_E = targets(_inputs.sequences(plan.data), user_E, end_E)
    counts, columns, lines, raw = ListCounts(len(popularity_I), plan.ks), [], [], _rankings.RawIds.of(plan.data)
    config = {"run": plan.model.name, "protocol": plan.rules}
    seed = plan.model.manifest["seed"]
    with artifacts.create(plan.folder, kind="eval", config=config, seed=seed, parents=plan.parents) as aside:
        with artifacts.table_writer(aside, "rankings") as write:
            for index, chunk in enumerate(_chunks.split(len(event_E), plan.batch_size)):
                part = _loaded(scratch, index, chunk)
                write({"event": event_E[chunk], **raw.rows(user_E[chunk], target_E[chunk], part[0])})
                counts.add(part[0]["items"])
                columns.append([part[0][name] for name in ("rank", "first", "sharing")])
                lines.append({"chunk": index, "events": chunk.stop - chunk.start, "seconds": part[1]})
        rank_E, first_E, sharing_E = (np.concatenate(column) for column in zip(*columns, strict=True))
        judged = Judged(user_E, rank_E, first_E, sharing_E, popularity_I[target_E], end_E)
        ambiguity = {"ambiguous_targets": int((sharing_E > 1).sum())} if plan.kind == "run" else {}
        written, more = {}, {}
        if plan.writes:
            chunks = list(enumerate(_chunks.split(len(event_E), plan.batch_size)))
            written = _texts.write(aside, event_E, (_loaded(scratch, *chunk)[0] for chunk in chunks))
            more = _texts.figures((_loaded(scratch, *chunk)[0] for chunk in chunks), target_E)
        parts = {} if plan.sets is None else _candidate_sets.seen(plan.data, target_E)
        judgement = {} if plan.searched is None else _beam_recall.judge(plan.searched, aside, plan.answered(plan.ks))
        artifacts.write_json(
            aside / "metrics.json",
            {"version": VERSION, "protocol": plan.rules, "ks": list(plan.ks), "events": len(event_E),
             "users": len(np.unique(user_E)),
             **summary(judged, plan.ks, ambiguity=plan.kind == "run", more=more, parts=parts),
             "lists": counts.metrics(popularity_I), **ambiguity, **plan.more, **written, **judgement},
        )  # fmt: skip
        artifacts.write_text(aside / "log.jsonl", "".join(json.dumps(line) + "\n" for line in [*lines, pace]))


def _loaded(scratch: Path, index: int, chunk: slice) -> tuple[dict[str, np.ndarray], float]:
    part = _chunks.load(scratch, index)
    if part is None or any(len(column) != chunk.stop - chunk.start for column in part[0].values()):
        raise ValueError(f"{scratch}: chunk {index} is missing or has not {chunk.stop - chunk.start} events")
    return part
