"""The built wheel works outside the repository, and holds what the code reads at run time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ilrec_cli import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building in place would leave folders in the repository
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", source], check=False)
    if not (source / "pyproject.toml").exists():  # an unpacked archive, without git
        pytest.skip("not a git checkout")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        source,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("ilrec-*.whl"))


def test_the_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)
    assert {"ilrec_cli/py.typed", "ilrec_cli/stages/report.html.jinja", "ilrec_cli/methods/ilrec/loss.py"} <= names
    assert not any(name.startswith(("tests", "benchmarks")) for name in names)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    code = "import ilrec_cli, sys; print(ilrec_cli.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, capture_output=True, check=True
    )
    assert str(site) in where.stdout
    command = [
        sys.executable,
        "-m",
        "ilrec_cli",
        "preprocess",
        "--dataset",
        "d",
        "--source",
        "synthetic",
        "--json",
        "--quiet",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ilrec-work" / "d" / "data" / "manifest.json").is_file()


def test_one_version_everywhere() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_constraints_pin_everything_that_is_needed() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().split()
        if "==" in line
    }
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[\[><=~! ]", line)[0].lower().replace("_", "-") for line in wanted} - {"ilrec"}
    assert names <= pinned, names - pinned


def test_the_doctor_asks_for_the_versions_that_the_package_asks_for() -> None:
    import tomllib

    from ilrec_cli.stages.doctor import PACKAGES

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in ("plots", "serve") for line in project["optional-dependencies"][extra]),
    ]
    oldest = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in wanted)  # type: ignore[union-attr]
    assert {name: oldest[name] for name in PACKAGES} == {name: about[0] for name, about in PACKAGES.items()}


def test_the_project_speaks_only_of_itself() -> None:
    """No path of a machine, no word of how the work is organised."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in (".png", ".svg") or path == Path(__file__) or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        assert not re.search(r"/(work|root|farm)/", text), name
