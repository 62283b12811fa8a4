"""The npm packages of the web page and of the desktop app: each says its licence, and it is one that we may use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {"MIT", "Apache-2.0", "ISC", "BSD-2-Clause", "BSD-3-Clause", "0BSD"}  # they ask for a notice at most
TOOLS = SHIPPED | {"MPL-2.0"}  # what builds or checks, and is in no page


def allowed(expression: str, licences: set[str]) -> bool:
    """Whether an SPDX expression (one level of brackets) can be met by these licences alone."""
    every = expression.strip("()").split(" AND ")
    return all(any(one.strip("() ") in licences for one in part.split(" OR ")) for part in every)


@pytest.mark.parametrize(
    ("expression", "right"),
    [
        ("MIT", True),
        ("(MIT OR GPL-3.0)", True),
        ("MIT AND GPL-3.0", False),
        ("(AFL-2.1 OR BSD-3-Clause)", True),
        ("MPL-2.0", False),
        ("", False),
    ],
)
def test_an_expression_is_read(expression: str, right: bool) -> None:
    assert allowed(expression, SHIPPED) == right


@pytest.mark.parametrize("folder", ["host_api/app/web", "examples/desktop-app", "tests/host_api/app/ai_sdk"])
def test_every_package_has_a_licence_we_may_use(folder: str) -> None:
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    named = {name: each for name, each in packages.items() if name.startswith("node_modules/")}
    assert len(named) > 20
    wrong = {
        name: each.get("license", "none said")
        for name, each in named.items()
        if not allowed(each.get("license", ""), TOOLS if each.get("dev") else SHIPPED)
    }
    assert wrong == {}
