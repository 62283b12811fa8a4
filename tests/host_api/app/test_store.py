"""What the host gives its own models by itself, and that it does so once."""

from __future__ import annotations

from pathlib import Path

from host_api.app.data.capabilities import Capability
from host_api.app.data.database import Directory
from host_api.app.data.keys import KeyStore
from host_api.app.data.providers import Store
from host_api.app.data.tables import BUILTIN

STARTER = {"starter": ["text", "vision", "structured_output", "tool_use"]}
BOTH = {**STARTER, "starter-embedding": ["embedding"]}


def test_starter_models_are_given_what_they_declare_once_also_when_one_comes_later(tmp_path: Path) -> None:
    directory = Directory(tmp_path).open()
    database = directory.database()
    store = Store(database, KeyStore(tmp_path / "keys.json", use_keyring=False))

    def seen(declared: dict[str, list[str]]) -> list[str]:
        store.sync_models(BUILTIN, declared)
        return store.seed_rest(declared)

    store.first_start()
    assert list(store.assignments()) == ["text"]
    assert seen(STARTER) == ["vision", "structured_output", "tool_use"]
    assert store.assigned(Capability.EMBEDDING) is None
    assert seen(BOTH) == ["embedding"]
    for capability in (Capability.EMBEDDING, Capability.VISION):
        store.assign(capability, None)
    store.first_start()
    assert seen(BOTH) == []
    assert set(store.assignments()) == {"text", "structured_output", "tool_use"}
    database.close()
    directory.close()
