"""Which way imports point, read from the source: architecture that a test does not hold does not hold."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilrec_cli import plugins

ROOT = Path(plugins.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PURE = {"errors", "trie", "trie_paths", "sequences", "splits", "negatives", "histories", "metrics", "significance", "ranking", "batching", "devices", "config", "settings",
        "artifacts", "schemas", "plugins", "presets", "console", "folders", "provenance", "checkpoint", "interrupt", "json_log", "spill"}  # fmt: skip
# module or folder -> what of ours it may import
ALLOWED = {
    "errors": set(), "metrics": set(), "significance": set(), "ranking": set(), "batching": set(), "histories": set(), "sequences": set(), "splits": set(), "negatives": {"histories"},
    "trie": {"trie_paths"}, "trie_paths": set(), "schemas": set(), "console": set(), "devices": {"errors"}, "plugins": {"errors"},
    "checkpoint": {"errors", "console"}, "interrupt": set(), "json_log": set(),
    "folders": {"errors"}, "spill": {"folders"}, "provenance": set(), "artifacts": {"errors", "schemas", "folders", "provenance"}, "config": {"errors", "plugins"}, "settings": {"config"},
    "presets": {"config", "errors", "plugins"}, "listing": {"config", "errors", "plugins", "presets"}, "commands": {"settings"},
    "flags": {"config", "listing", "commands"}, "cli": {"errors", "flags", "plugins", "config", "settings", "listing", "presets", "commands", "json_log"}, "__main__": {"cli"}, "__init__": {"stages"},
    "datasets": PURE, "ids": PURE, "cf": PURE, "lm": PURE, "methods": PURE | {"lm"},
    "serve": {"errors"}, "stages": PURE | {"datasets", "ids", "cf", "lm", "methods", "serve"},
}  # fmt: skip


def part_of(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    module = ast.parse(path.read_text())
    nodes = module.body if top_level else ast.walk(module)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name: str) -> str | None:
    """'lm' for ilrec_cli.lm.decode.beam_search; None for other packages."""
    parts = name.split(".")
    if parts[0] != "ilrec_cli":
        return None
    return "__init__" if len(parts) == 1 or parts[1] == "__version__" else parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    own = part_of(path)
    for name in imports(path):
        found = ours(name)
        assert found in (None, "__init__", own) or found in ALLOWED[own], f"{own} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if part_of(path) in plugins.FOLDERS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_plugins_do_not_import_one_another_and_their_front_is_light(path: Path) -> None:
    folder, *rest = path.relative_to(ROOT).parts
    own = rest[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[:2] == ["ilrec_cli", folder] and len(parts) > 2:
            assert parts[2] == own or parts[2].startswith("_") or own.startswith("_"), f"{path} imports {name}"
    if path.name == "__init__.py":
        for name in imports(path):
            package = name.split(".")[0]
            assert package in sys.stdlib_module_names or package == "ilrec_cli", f"{path} imports {name}"


def test_a_stage_imports_no_other_stage() -> None:
    for path in (ROOT / "stages").glob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["ilrec_cli", "stages"] and len(parts) > 2:
                assert parts[2].startswith("_"), f"{path.name} imports {name}"


def test_only_stages_touch_artifacts() -> None:
    for path in FILES:
        if part_of(path) not in ("stages", "artifacts"):
            assert "artifacts" not in {ours(name) for name in imports(path)}, path


def test_train_and_evaluate_need_neither_polars_nor_faiss(own_world: Path) -> None:
    """They run on a bare GPU image."""
    import subprocess

    from conftest import TINY_LM

    code = (
        "import sys\n"
        "for name in ('polars', 'faiss', 'sklearn', 'matplotlib'): sys.modules[name] = None\n"
        "from ilrec_cli.cli import invoke\n"
        f"common = ['--dataset', 'toy', '--work', {str(own_world)!r}, '--quiet']\n"
        "invoke(['train-cf', *common, '--name', 'bare', '--epochs', '1', '-o', 'hidden_size=8', '-o', 'n_heads=1'])\n"
        f"invoke(['train', *common, '--cf', 'bare', '--name', 'bare', *{TINY_LM!r}, '--max-steps', '1'])\n"
        "invoke(['evaluate', *common, '--run', 'runs/bare,bare'.split(',')[1], '--limit-users', '3'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_demo_is_known_to_nobody_but_itself() -> None:
    for path in FILES:
        if "synthetic" in path.parts or path.name == "demo.py":
            continue
        text = path.read_text()
        assert "Hobby" not in text, path
        if path.name not in ("cli.py", "results.py", "doctor.py", "preprocess.py"):
            assert "synthetic" not in text.replace("--source synthetic", ""), path


def test_nothing_is_pickled_and_no_remote_code_runs() -> None:
    for path in FILES:
        text = path.read_text()
        for word in ("import pickle", "torch.load(", "torch.save(", "trust_remote_code=True", "eval(", "exec("):
            if word == "eval(":
                text = text.replace(".eval(", "").replace("literal_eval(", "")
            assert word not in text, f"{path}: {word}"


def test_files_stay_small() -> None:
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 290, path
