"""Every command in the README and in docs/start.md runs. A block without a declaration of how it is tested fails.

A declaration is a comment in front of the block: `<!-- test: FLAGS -->`. FLAGS are added to every `ilrec` command of
the block that knows them (so real training becomes a smoke test); `<!-- test: as is -->` adds none.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished, instruments_folder

from ilrec_cli import cli, config
from ilrec_cli.datasets import synthetic
from ilrec_cli.datasets._raw import Reading
from ilrec_cli.datasets.synthetic import load

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"(?:<!-- test: (?P<flags>[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)
PAGES = ("README.md", "docs/start.md")
UNTESTED = ("text", "yaml", "json")  # what is shown, not run
Block = tuple[str, str, str | None]


def blocks(page: str) -> list[Block]:
    """(language, code, flags) of every block of commands."""
    text = (ROOT / page).read_text()
    found = [(match["language"], match["code"], match["flags"]) for match in FENCE.finditer(text)]
    return [block for block in found if block[0] not in UNTESTED]


def commands(code: str) -> list[list[str]]:
    joined = code.replace("\\\n", " ")
    return [
        shlex.split(line, comments=True)
        for line in joined.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]


def with_flags(arguments: list[str], flags: str) -> list[str]:
    """The command with those of the declared flags that it knows."""
    command = next((name for name in (" ".join(arguments[:2]), arguments[0]) if name in cli.COMMANDS), None)
    known = (
        {"--" + field.name.replace("_", "-") for field in config.fields(cli.COMMANDS[command][0])} if command else set()
    )
    added: list[str] = []
    parts = shlex.split("" if flags == "as is" else flags)
    for flag, value in zip(parts[::2], parts[1::2], strict=True):
        if flag in known:
            added += [flag, value]
    return [*arguments, *added]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place like the pages': `data/Instruments` holds files in LC-Rec's layout, `data/shop` tables."""
    instruments_folder(tmp_path / "data" / "Instruments")
    shop_folder(tmp_path / "data" / "shop")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shop_folder(folder: Path) -> None:
    """A synthetic world as the tables that docs/start.md shows."""
    log, items, *_ = load.load(folder, "", synthetic.Config(users=150), Reading())
    folder.mkdir(parents=True)
    rows = log.table().sort("row").rename({"user": "user_id", "item": "item_id"})
    rows.select("user_id", "item_id", "timestamp").write_csv(folder / "shop.csv")
    text = items.with_columns(items["categories"].list.join(",")).rename({"raw_id": "item_id"})
    text.select("item_id", "title", "brand", "categories").write_csv(folder / "shop.items.csv")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_how_it_is_tested(page: str) -> None:
    undeclared = [code for _, code, flags in blocks(page) if flags is None]
    assert not undeclared, f"{page}: blocks without '<!-- test: ... -->': {undeclared}"
    assert len(blocks(page)) >= 2


def test_a_block_without_a_declaration_would_be_found() -> None:
    assert [
        match["flags"] for match in FENCE.finditer("<!-- test: as is -->\n```bash\nx\n```\n\n```bash\ny\n```\n")
    ] == ["as is", None]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_run_in_order(page: str, folder: Path, ilrec: Callable[..., Finished]) -> None:
    """As one session in one folder, from top to bottom, the way a reader would."""
    for language, code, flags in blocks(page):
        assert flags is not None
        if language == "python":
            subprocess.run([sys.executable, "-c", code], check=True)
            continue
        for name, *arguments in commands(code):
            if name in ("git", "cd", "pip"):
                continue
            if name == "make":
                run_make(arguments, flags, ilrec)
                continue
            assert name == "ilrec", f"{page} runs '{name}', which this test does not know"
            result = ilrec(*with_flags(arguments, flags))
            assert result.code == 0, f"ilrec {shlex.join(arguments)}: {result.err}"


def run_make(targets: list[str], flags: str, ilrec: Callable[..., Finished]) -> None:
    """`make demo` ends with `ilrec demo`, which is run; of other targets, that they exist and what they call."""
    for target in targets:
        dry = subprocess.run(
            ["make", "--dry-run", "-C", str(ROOT), target], text=True, capture_output=True, check=True
        ).stdout
        last = (
            dry.strip().splitlines()[-1]
            if target != "demo"
            else next(line for line in dry.splitlines() if "ilrec demo" in line)
        )
        if target == "demo":
            arguments = shlex.split(last.split("ilrec ", 1)[1])
            assert ilrec(*with_flags(arguments, flags)).code == 0
        else:
            assert "pytest" in dry or "ruff" in dry, f"make {target}: {last}"
