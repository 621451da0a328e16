"""A toy data set in LC-Rec's layout with text of items and of users."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import instruments_folder


def raw_folder(folder: Path) -> Path:
    """LC-Rec's files: sequences, index, text (the first user.s first item has none), and what users 0 to 19 said."""
    instruments_folder(folder, users=60)
    sequences = json.loads((folder / "Instruments.inter.json").read_text())
    items = {item for row in sequences.values() for item in row}
    text = {item: {"title": f"Drum {item}.", "description": [f"A drum with {item} heads."], "brand": "B", "categories": "x"} for item in items}  # fmt: skip
    text[sequences["0"][0]] = {"title": "", "description": "", "brand": "", "categories": ""}
    (folder / "Instruments.item.json").write_text(json.dumps(text))
    users = list(sequences)[:20]
    wishes = {user: {"item": sequences[user][-3], "inters": sequences[user][:-3], "querys": [f"ask {user}", f"want {user}"]} for user in users}  # fmt: skip
    wishes[users[0]]["item"] = sequences[users[0]][-1]  # held out: must not be asked for
    wishes[users[1]]["item"] = 10**6
    likes = {user: [f"likes {user}", f"loves {user}", ""] for user in users[:10]}
    likes["nobody"] = ["likes nothing"]
    said = {"user_explicit_preference": likes, "user_vague_intention": {"train": wishes, "test": {users[2]: {"item": 1, "querys": ["secret"]}}}}  # fmt: skip
    (folder / "Instruments.user.json").write_text(json.dumps(said))
    return folder
