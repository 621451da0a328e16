"""The pages: links lead somewhere, every command and every page is listed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
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


def test_the_examples_of_a_method_a_model_and_a_format_work(tmp_path: Path) -> None:
    """In a copy of the package: made from the page, found, trained with."""
    package = tmp_path / "code" / "ilrec_cli"
    shutil.copytree(ROOT / "ilrec_cli", package, ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "extending.md").read_text()
    for file, code in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", page, flags=re.DOTALL):
        (package / file).parent.mkdir(exist_ok=True)
        (package / file).write_text(code)
    raw = tmp_path / "raw"
    raw.mkdir()
    rows = [(user, (user * 3 + place) % 20, place) for user in range(40) for place in range(8)]
    (raw / "u.data").write_text("".join(f"{user}\t{item}\t5\t{place}\n" for user, item, place in rows))
    (raw / "u.item").write_text("".join(f"{item}|Am\xe9lie {item}|1|\n" for item in range(20)), encoding="latin1")
    run = (
        "from ilrec_cli.cli import invoke\n"
        f"common = ['--dataset', 'films', '--work', {str(tmp_path / 'work')!r}, '--quiet']\n"
        f"card = invoke(['preprocess', *common, '--raw-dir', {str(raw)!r}])\n"
        "invoke(['build-ids', *common, '-o', 'codes=4', '-o', 'levels=2'])\n"
        "invoke(['train-cf', *common, '--model', 'last_item', '--epochs', '2'])\n"
        "invoke(['train', *common, '--method', 'smooth', '-o', 'share=0.2', '--max-steps', '2', '--hidden-size', '16',"
        " '--n-layers', '2', '--n-heads', '2', '--inner-size', '32'])\n"
        "found = invoke(['evaluate', *common])['metrics']\n"
        "assert len(found) == 3, found\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "code")}
    done = subprocess.run(
        [sys.executable, "-c", run], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
