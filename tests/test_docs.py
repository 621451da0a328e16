"""The pages: links lead somewhere, every command and every page is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ilrec_cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """Of every heading, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for file, heading in LINK.findall(page.read_text()):
        target = (page.parent / file).resolve() if file else page
        assert target.is_file(), f"{page.name} links to {file}"
        assert not heading or heading in anchors(target), f"{page.name} links to {file}#{heading}"


def test_every_page_is_on_the_front_page() -> None:
    linked = {Path(file).name for file, _ in LINK.findall((ROOT / "README.md").read_text())}
    below = {"ids-encoders.md", "ids-rqvae.md"}  # docs/ids.md leads there
    assert {page.name for page in PAGES[1:]} - below <= linked


def test_every_command_is_on_the_page_of_commands() -> None:
    named = " ".join(re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "commands.md").read_text(), flags=re.MULTILINE))
    for command in COMMANDS:
        group, _, name = command.rpartition(" ")
        assert f"`{command}`" in named or (f"`{group} " in named and f"`{name}`" in named), command
