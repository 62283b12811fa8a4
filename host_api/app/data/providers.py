"""Providers, models and assignments in the database. Blocking; call from a thread."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy.exc import IntegrityError

from host_api.app.data.capabilities import STARTER, STARTER_EMBEDDING, Capability
from host_api.app.data.database import Database
from host_api.app.data.keys import KeyStore, KeysUnreadable, origin_of
from host_api.app.data.tables import BUILTIN, Assignment, Model, Provider, Session, Setting, select
from host_api.app.errors import ApiError, not_found

_PROVIDERS_HINT = "GET /models/providers lists them."
_MODELS_HINT = "GET /models lists them; POST /models/provider/{id}/discover finds more."


@dataclass(frozen=True)
class Assigned:
    """A capability's model and where it is. ``key`` is never logged or returned."""

    capability: Capability
    model_id: int
    model: str
    provider_id: str
    kind: str
    base_url: str | None
    key: str | None


class Store:
    """What the user chose."""

    def __init__(self, database: Database, keys: KeyStore) -> None:
        self._db = database
        self._keys = keys

    def first_start(self) -> None:
        """Make the built-in provider, and on the very first start give ``text`` to the starter model."""
        with self._db.write() as db:
            if db.get(Provider, BUILTIN) is None:
                db.add(Provider(id=BUILTIN, name="Built in", kind=BUILTIN))
                db.flush()
            if db.get(Setting, "seeded") is None:
                model = Model(provider_id=BUILTIN, name=STARTER, capabilities={Capability.TEXT: True})
                db.add(model)
                db.flush()
                db.add(Assignment(capability=Capability.TEXT, model_id=model.id or 0))
                db.add(Setting(key="seeded", value="text"))

    def seed_rest(self, declared: Mapping[str, Iterable[str]]) -> list[str]:
        """Once each, when first seen: give the starter models every capability they declare that nothing serves.

        Returns those given.
        """
        given: list[str] = []
        with self._db.write() as db:
            for key, name in (("seeded", STARTER), ("seeded_embedding", STARTER_EMBEDDING)):
                seeded = db.get(Setting, key) or Setting(key=key, value="")
                if seeded.value == "done" or name not in declared:
                    continue
                query = select(Model).where(Model.provider_id == BUILTIN, Model.name == name)
                model = db.exec(query).first()
                for capability in declared[name]:
                    taken = db.get(Assignment, capability) is not None
                    if model is None or capability not in set(Capability) or taken:
                        continue
                    db.add(Assignment(capability=capability, model_id=model.id or 0))
                    given.append(capability)
                seeded.value = "done"
                db.add(seeded)
        return given

    # --- providers -----------------------------------------------------------------------------------
    def providers(self) -> list[Provider]:
        """All of them, the built-in one first."""
        with self._db.read() as db:
            return sorted(db.exec(select(Provider)).all(), key=lambda p: (p.kind != BUILTIN, p.created_at))

    def provider(self, provider_id: str) -> Provider:
        """One. Raises a 404."""
        with self._db.read() as db:
            return self._provider(db, provider_id)

    def _provider(self, db: Session, provider_id: str) -> Provider:
        found = db.get(Provider, provider_id)
        if found is None:
            raise not_found("provider", provider_id, _PROVIDERS_HINT)
        return found

    def add_provider(self, name: str, base_url: str, key: str | None) -> Provider:
        """Add an OpenAI-compatible endpoint. Raises 409 for a name taken and 422 for a bad address."""
        row = Provider(
            id=uuid.uuid4().hex, name=_name(name), kind="openai", base_url=_address(base_url), has_key=bool(key)
        )
        if key:
            self._keep(row, key)
        try:
            with self._named(row.name) as db:
                db.add(row)
        except Exception:
            if key:
                self._keys.drop(row.id)
            raise
        return row

    def change_provider(self, provider_id: str, name: str | None, base_url: str | None, key: str | None) -> Provider:
        """Change what is given; an empty ``key`` forgets it. Raises ApiError.

        A key belongs to the origin (scheme, host, port) it was given for: another one without a key drops it.
        """
        row = self.provider(provider_id)
        if row.kind == BUILTIN:
            message = "The built-in provider can't be changed; its address is the sidecar's."
            raise ApiError(409, message, code="builtin_provider")
        before = row.base_url or ""
        row.name = _name(name) if name is not None else row.name
        row.base_url = _address(base_url) if base_url is not None else before
        moved = origin_of(row.base_url) != origin_of(before)
        if key is None and moved:
            key = ""
        if key is not None:
            row.has_key = bool(key)
        with self._named(row.name) as db:
            db.merge(row)
            db.flush()
            # Inside the transaction: where the key can't be kept or forgotten, the address stays as it was too.
            if key:
                self._keep(row, key)
            elif key is not None:
                self._forget(provider_id)
        return row

    def _keep(self, row: Provider, key: str) -> None:
        try:
            self._keys.put(row.id, key, row.base_url or "")
        except (KeysUnreadable, OSError) as exc:
            raise ApiError(503, f"The key can't be kept: {exc}.", code="keys_unavailable") from exc

    def _forget(self, provider_id: str) -> None:
        try:
            self._keys.drop(provider_id)
        except (KeysUnreadable, OSError) as exc:
            raise ApiError(503, f"The key can't be forgotten: {exc}.", code="keys_unavailable") from exc

    @contextmanager
    def _named(self, name: str) -> Iterator[Session]:
        try:
            with self._db.write() as db:
                yield db
        except IntegrityError:
            raise ApiError(409, f"There is a provider called {name!r} already.", code="provider_exists") from None

    def remove_provider(self, provider_id: str) -> None:
        """Remove it, its models and what was assigned to them. Raises ApiError."""
        with self._db.write() as db:
            row = self._provider(db, provider_id)
            if row.kind == BUILTIN:
                message = "The built-in provider can't be removed; assign its capabilities elsewhere and it stops."
                raise ApiError(409, message, code="builtin_provider")
            db.delete(row)
        self._forget(provider_id)

    def key(self, provider: Provider) -> str | None:
        """Return the provider's key for the address it has now. Raises a 503 when it can't be read."""
        if not provider.has_key or provider.base_url is None:
            return None
        try:
            return self._keys.get(provider.id, provider.base_url)
        except KeysUnreadable as exc:
            raise ApiError(503, f"The key of {provider.name} can't be read: {exc}.", code="keys_unavailable") from exc

    # --- models --------------------------------------------------------------------------------------
    def models(self, provider_id: str | None = None) -> list[Model]:
        """All models, or a provider's."""
        with self._db.read() as db:
            query = select(Model) if provider_id is None else select(Model).where(Model.provider_id == provider_id)
            return sorted(db.exec(query).all(), key=lambda m: m.id or 0)

    def model(self, model_id: int) -> tuple[Model, Provider]:
        """One and its provider. Raises a 404."""
        with self._db.read() as db:
            row = db.get(Model, model_id)
            if row is None:
                raise not_found("model", model_id, _MODELS_HINT)
            return row, self._provider(db, row.provider_id)

    def sync_models(self, provider_id: str, found: Mapping[str, Iterable[str]]) -> list[Model]:
        """Remember the models a provider has now, with the capabilities it declares for each.

        One that is gone is marked so; its assignments stay until the user changes them.
        """
        with self._db.write() as db:
            self._provider(db, provider_id)
            rows = {m.name: m for m in db.exec(select(Model).where(Model.provider_id == provider_id))}
            for name, declared in found.items():
                row = rows.get(name) or Model(provider_id=provider_id, name=name)
                row.present = True
                row.capabilities = {**{c: True for c in declared if c in set(Capability)}, **row.capabilities}
                db.add(row)
            for name, row in rows.items():
                if name not in found:
                    row.present = False
                    db.add(row)
        return self.models(provider_id)

    def confirm(self, model_id: int, results: Mapping[str, bool]) -> None:
        """Remember what a probe found."""
        with self._db.write() as db:
            row = db.get(Model, model_id)
            if row is not None:
                row.capabilities = {**row.capabilities, **results}
                db.add(row)

    # --- assignments ---------------------------------------------------------------------------------
    def assigned(self, capability: Capability) -> Assigned | None:
        """What a capability uses, with the key, or None."""
        with self._db.read() as db:
            row = db.get(Assignment, capability)
            if row is None:
                return None
            model = db.get_one(Model, row.model_id)
            provider = db.get_one(Provider, model.provider_id)
        key = self.key(provider)
        return Assigned(capability, model.id or 0, model.name, provider.id, provider.kind, provider.base_url, key)

    def assignments(self) -> dict[str, tuple[Model, Provider]]:
        """Everything assigned."""
        with self._db.read() as db:
            found = {}
            for row in db.exec(select(Assignment)):
                model = db.get_one(Model, row.model_id)
                found[row.capability] = (model, db.get_one(Provider, model.provider_id))
            return found

    def assign(self, capability: Capability, model_id: int | None) -> None:
        """Give ``capability`` to a model, or to none. Raises ApiError."""
        with self._db.write() as db:
            row = db.get(Assignment, capability)
            if model_id is None:
                if row is not None:
                    db.delete(row)
            else:
                model = db.get(Model, model_id)
                if model is None:
                    raise not_found("model", model_id, _MODELS_HINT)
                if model.capabilities.get(capability) is False:
                    raise ApiError(
                        409,
                        f"{model.name} was probed and has no {capability}; probe again with "
                        f"POST /models/confirm_capability/{model_id} or choose another model.",
                        code="capability_missing",
                    )
                row = row or Assignment(capability=capability, model_id=model_id)
                row.model_id = model_id
                db.add(row)

    def wants_builtin(self) -> bool:
        """Whether any capability is on the built-in provider."""
        with self._db.read() as db:
            query = select(Assignment).join(Model).where(Model.provider_id == BUILTIN)
            return db.exec(query).first() is not None


def _name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 100:
        raise ApiError(422, "name: give 1 to 100 characters.", code="invalid_request")
    return name


def _address(url: str) -> str:
    url = url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.username or parts.query)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        message = "base_url: give an address such as http://127.0.0.1:11434/v1 (the key goes into api_key)."
        raise ApiError(422, message, code="invalid_request")
    return url
