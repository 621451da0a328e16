"""A few users of a preprocessed dataset: their items in order, with titles, times and splits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.settings import ShowData
from ilrec_cli.stages import _inputs

WIDEST = 60  # characters of a title
MIN_DATE = 86_400 * 365  # smaller times are places in a sequence, not dates


def run(config: ShowData) -> dict[str, Any]:
    """Print the first users, or one of them."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    card, ids = data.json("card.json"), data.table("users")["raw_id"].to_pylist()
    if config.user is None:
        chosen = list(range(min(config.n, len(ids))))
    elif config.user in ids:
        chosen = [ids.index(config.user)]
    else:
        raise UserError(f"--user '{config.user}' is not among the {len(ids):,} users.{nearest(config.user, ids)}")
    statistics = card["statistics"]
    console.say(
        f"{config.dataset}: {statistics['users']:,} users, {statistics['items']:,} items, "
        f"{statistics['interactions']:,} interactions, from {card['source']}, split {card['split']['rule']}"
    )
    opened = _open(data)
    shown = {ids[user]: _rows(opened, user, card["ticks_per_second"]) for user in chosen}
    for user, rows in shown.items():
        console.say(f"\nuser {user}: {len(rows)} interactions")
        columns = ["place", "split", "time", "rating", "item", "title"]
        console.table(columns, [[row[name] for name in columns] for row in rows])
    return {"users": shown}


class Opened(NamedTuple):
    """The tables of a dataset, read once for all users."""

    offsets: np.ndarray
    interactions: pa.Table
    items: pa.Table
    training: tuple[np.ndarray, np.ndarray]
    held_out: dict[str, tuple[np.ndarray, np.ndarray]]  # split -> user and place of every target


def _open(data: Artifact) -> Opened:
    held_out = {name: _inputs.events(data, name)[1:] for name in ("valid", "test")}
    return Opened(
        _inputs.sequences(data).offsets, data.table("interactions"), data.table("items"), _inputs.training_part(data),
        held_out,
    )  # fmt: skip


def _rows(data: Opened, user: int, ticks: int | None) -> list[dict[str, Any]]:
    low, high = data.offsets[user : user + 2].tolist()
    start, stop = (int(part[user]) for part in data.training)
    split = {place: "train" if start <= place < stop else "history" for place in range(high - low)}
    for name, (users, end) in data.held_out.items():
        split |= dict.fromkeys(end[np.flatnonzero(users == user)].tolist(), name)
    part, items = data.interactions.slice(low, high - low), data.items
    return [
        {
            "place": place, "split": split[place], "time": _moment(time, ticks), "rating": rating,
            "item": items["raw_id"][item].as_py(), "title": items["title"][item].as_py()[:WIDEST],
        }
        for place, (item, time, rating) in enumerate(zip(*(part[name].to_pylist() for name in ("item", "timestamp", "rating")), strict=True))
    ]  # fmt: skip


def _moment(time: int, ticks: int | None) -> str:
    """A date for what can be one, else the number."""
    if ticks is None:
        return "-"
    seconds = time // ticks
    if not MIN_DATE <= seconds < 2**33:
        return str(time)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
