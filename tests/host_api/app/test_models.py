"""Providers, models, assignments over HTTP, and the guard."""

from __future__ import annotations

import stat
from typing import Any

import httpx
import pytest

from tests.support.host_servers import HostProcess
from tests.support.servers import Sidecar, wait_for


def provider(http: httpx.Client, second: tuple[Sidecar, str], name: str, key: str | None = None) -> dict[str, Any]:
    body = {"name": name, "base_url": f"{second[0].url}/v1", "api_key": second[1] if key is None else key}
    answer = http.post("/models/providers", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_first_start_gives_the_starter_model_what_it_can_do(http: httpx.Client) -> None:
    found = {c["name"]: c["model"] for c in http.get("/models/capabilities").json()}
    assert list(found) == ["text", "vision", "structured_output", "tool_use", "embedding"]
    assert found["text"]["name"] == "starter"
    assert found["structured_output"]["name"] == "starter"
    assert found["vision"]["name"] == "starter"
    assert found["embedding"]["name"] == "starter-embedding"


def test_the_built_in_address_is_the_sidecars(http: httpx.Client) -> None:
    sidecar = http.get("/status").json()["sidecar"]
    builtin = http.get("/models/providers/builtin").json()
    assert builtin["base_url"] == f"{sidecar['url']}/v1"
    assert httpx.get(f"{sidecar['url']}/health").json()["instance_id"] == sidecar["instance_id"]


def test_the_host_serves_no_models_itself(http: httpx.Client) -> None:
    assert http.post("/v1/chat/completions", json={}).status_code == 404
    assert http.get("/v1/models").status_code == 404


def test_providers_are_made_changed_and_removed(
    http: httpx.Client, second: tuple[Sidecar, str], running: HostProcess
) -> None:
    made = provider(http, second, "crud")
    assert made["has_key"] is True
    assert second[1] not in str(made)
    assert http.get(f"/models/providers/{made['id']}").json() == made
    changed = http.put(f"/models/providers/{made['id']}", json={"name": "renamed", "api_key": ""}).json()
    assert (changed["name"], changed["has_key"]) == ("renamed", False)
    assert http.get("/models/providers").json()[0]["name"] == "Built in"
    assert http.delete(f"/models/providers/{made['id']}").status_code == 204
    gone = http.get(f"/models/providers/{made['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "provider_not_found")
    assert second[1] not in running.logs()


def test_a_key_file_is_private_and_forgotten_with_its_provider(
    http: httpx.Client, second: tuple[Sidecar, str], running: HostProcess
) -> None:
    made = provider(http, second, "keyed")
    path = running.folder / "data" / "keys.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert second[1] in path.read_text()
    http.delete(f"/models/providers/{made['id']}")
    assert second[1] not in path.read_text()
    assert stat.S_IMODE((running.folder / "data" / "host.sqlite3").stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://x/v1", "http://", "http://user:pw@x/v1", "http://x:99999/v1"])
def test_a_bad_address_is_refused(http: httpx.Client, url: str) -> None:
    answer = http.post("/models/providers", json={"name": "bad", "base_url": url})
    assert answer.status_code == 422
    assert "base_url" in answer.json()["error"]["message"]


def test_names_are_unique_and_the_built_in_provider_stays(http: httpx.Client, second: tuple[Sidecar, str]) -> None:
    made = provider(http, second, "twice")
    again = http.post("/models/providers", json={"name": "twice", "base_url": "http://127.0.0.1:1/v1"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "provider_exists")
    assert http.delete("/models/providers/builtin").status_code == 409
    assert http.put("/models/providers/builtin", json={"name": "x"}).status_code == 409
    http.delete(f"/models/providers/{made['id']}")


def test_discover_finds_models(http: httpx.Client, second: tuple[Sidecar, str]) -> None:
    made = provider(http, second, "discover")
    models = http.post(f"/models/provider/{made['id']}/discover").json()
    assert "starter" in [m["name"] for m in models]
    builtin = http.post("/models/provider/builtin/discover").json()
    assert {"starter", "minilm", "tiny-vl"} <= {m["name"] for m in builtin}
    assert http.post("/models/provider/nobody/discover").status_code == 404
    http.delete(f"/models/providers/{made['id']}")


def test_discover_says_what_is_wrong(http: httpx.Client, second: tuple[Sidecar, str]) -> None:
    wrong = provider(http, second, "wrong key", key="not-it")
    answer = http.post(f"/models/provider/{wrong['id']}/discover")
    assert answer.status_code == 502
    assert "api_key" in answer.json()["error"]["message"]
    http.put(f"/models/providers/{wrong['id']}", json={"base_url": "http://127.0.0.1:9/v1"})
    answer = http.post(f"/models/provider/{wrong['id']}/discover")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "provider_unreachable")
    http.put(f"/models/providers/{wrong['id']}", json={"base_url": second[0].url, "api_key": second[1]})
    answer = http.post(f"/models/provider/{wrong['id']}/discover")
    assert answer.status_code == 502
    http.delete(f"/models/providers/{wrong['id']}")


def test_the_catalogue_says_what_suits_and_pulls_are_guarded(http: httpx.Client) -> None:
    found = {m["alias"]: m for m in http.get("/models/catalogue").json()["data"]}
    assert found["starter"]["installed"] is True
    assert sum(m["recommended"] for m in found.values()) == 1
    assert found["qwen3-vl-4b"]["hub_id"].startswith("mlx-community/")
    assert http.get("/models/pulls").json() == []
    for wrong in ({}, {"model": ""}, {"model": 3}):
        assert http.post("/models/pulls", json=wrong).status_code == 422
    refused = http.post("/models/pulls", json={"model": "x/y"}, headers={"origin": "https://evil.example"})
    assert refused.status_code == 403
    gone = http.delete("/models/pulls/acme/none")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "pull_not_found")
    body = {"model": "starter"}
    assert http.post("/models/pulls", json=body).json()["state"] == "running"
    wait_for(lambda: http.get("/models/pulls").json()[0]["state"] == "failed")
    assert "does not come from a hub" in http.get("/models/pulls").json()[0]["error"]
    assert http.delete("/models/pulls/starter").status_code == 204
    assert http.get("/models/pulls").json() == []


def test_unknown_names_are_404_and_bad_choices_422(http: httpx.Client) -> None:
    assert http.get("/models/global_capability/smell").status_code == 404
    assert http.post("/models/global_capability/text", json={"model_id": 99999}).status_code == 404
    assert http.post("/models/global_capability/text", json={"model": "starter"}).status_code == 422
    body = {"provider_id": "builtin", "model": "nothing"}
    assert "discover" in http.post("/models/global_capability/text", json=body).json()["error"]["message"]
    assert http.post("/models/confirm_capability/99999").status_code == 404
    assert http.post("/models/global_capability/text", content=b"{").status_code == 422


def test_confirm_really_asks_the_model(http: httpx.Client) -> None:
    models = {m["name"]: m["id"] for m in http.post("/models/provider/builtin/discover").json()}
    body = {"capabilities": ["text", "vision", "structured_output"]}
    results = http.post(f"/models/confirm_capability/{models['starter']}", json=body).json()["results"]
    assert results["text"]["ok"] is True
    assert results["structured_output"]["ok"] is True
    assert results["vision"]["ok"] is True, results
    assert "red" in results["vision"]["detail"]
    assert "blue" in results["vision"]["detail"]
    vectors = http.post(f"/models/confirm_capability/{models['minilm']}", json={"capabilities": ["embedding", "text"]})
    assert vectors.json()["results"]["embedding"] == {"ok": True, "detail": "384 dimensions"}
    assert vectors.json()["results"]["text"]["ok"] is False
    refused = http.post("/models/global_capability/text", json={"model_id": models["minilm"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "capability_missing")


def test_the_guard_knows_hosts_and_origins(http: httpx.Client) -> None:
    assert http.get("/status", headers={"host": "evil.example"}).status_code == 403
    assert http.get("/status", headers={"origin": "https://evil.example"}).status_code == 403
    assert http.get("/status", headers={"origin": "http://localhost:5173"}).status_code == 403
    assert http.get("/status", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    for origin in ("tauri://localhost", "http://tauri.localhost", "https://tauri.localhost", str(http.base_url)):
        answer = http.get("/status", headers={"origin": origin})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
    preflight = http.options(
        "/models/providers", headers={"origin": "tauri://localhost", "access-control-request-method": "PUT"}
    )
    assert preflight.status_code == 204
    assert "PUT" in preflight.headers["access-control-allow-methods"]


def test_what_is_not_there_has_the_same_kind_of_error(http: httpx.Client) -> None:
    assert http.get("/nothing").json()["error"]["code"] == "http_404"
    assert http.delete("/status").json()["error"]["code"] == "http_405"
