"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import ilrec_cli

MODULES = [
    module.name
    for module in pkgutil.walk_packages(ilrec_cli.__path__, "ilrec_cli.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    assert (
        doctest.testmod(
            module, extraglobs={"torch": importlib.import_module("torch"), "np": importlib.import_module("numpy")}
        ).failed
        == 0
    )
