"""docs/reference/upstream-names.md names what the code uses of other packages, and the packages have it."""

from __future__ import annotations

import importlib

import pytest

from tools import upstream_names
from tools.upstream_words import BY_NAME, WORDS


@pytest.fixture(scope="module")
def found() -> dict[str, set[str]]:
    """Return the names that the code uses, and the files that do."""
    return upstream_names.used()


def test_the_page_is_what_the_code_uses() -> None:
    assert upstream_names.PAGE.read_text("utf-8") == upstream_names.page(), "run: python -m tools.upstream_names"


def test_every_name_says_what_breaks_without_it(found: dict[str, set[str]]) -> None:
    assert sorted(name for name in found if upstream_names.needs_words(name) and not WORDS.get(name)) == []
    assert sorted(WORDS.keys() - found.keys()) == [], "no longer used"
    for name, (files, words) in BY_NAME.items():
        assert words
        assert [f for f in files if name not in (upstream_names.ROOT / f).read_text("utf-8")] == [], name


def test_the_installed_versions_have_every_name(found: dict[str, set[str]]) -> None:
    gone = []
    for name in (n for n in found if not n.startswith(".")):
        parts = name.split(".")
        thing, rest = None, parts
        for count in range(len(parts), 0, -1):
            try:
                thing, rest = importlib.import_module(".".join(parts[:count])), parts[count:]
                break
            except ModuleNotFoundError:
                continue
        for part in rest:
            thing = getattr(thing, part, None)
        if thing is None:
            gone.append(name)
    assert gone == []


def test_the_walk_sees_imports_aliases_chains_and_private_attributes() -> None:
    import ast

    tree = ast.parse(
        "def f(batch):\n    from mlx_vlm.generate import ar as it\n    import mlx.core as mx\n"
        "    it._join(batch._of_another, mx.random.key(1))\n    batch._replace(a=1)\n"
    )
    assert set(upstream_names._dotted(tree)) >= {"mlx_vlm.generate.ar._join", "mlx.core.random.key"}
    assert list(upstream_names._private(tree)) == ["_of_another"]
