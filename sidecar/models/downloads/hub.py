"""What the hub says about a model, through huggingface_hub. The only file that imports it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from sidecar import __version__
from sidecar.backend import trust
from sidecar.models.downloads import HubFile, Listing, PullError

_ASK = 20.0  # seconds the hub may take to answer
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""What commits and contents are called; they become names in the cache folder, so nothing else may pass."""
_LARGEST = 1 << 44  # bytes of a file


class Transient(Exception):
    """Something that may be over soon. ``wait``: seconds the hub asked to wait, if it did."""

    def __init__(self, message: str, *, wait: float | None = None, busy: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.busy = busy


@dataclass(frozen=True)
class Endpoint:
    """A hub or a mirror of it. The user's token is for the hub alone."""

    url: str
    token: str | None = None

    def headers(self) -> dict[str, str]:
        """Headers of a request for a file."""
        _quiet()
        from huggingface_hub.utils._headers import build_hf_headers

        token = self.token or False
        made = build_hf_headers(token=token, library_name="mlx-sidecar", library_version=__version__)
        return {**made, "Accept-Encoding": "identity"}

    def file_url(self, hub_id: str, path: str, commit: str) -> str:
        """Where a file of a commit is."""
        _quiet()
        from huggingface_hub.file_download import hf_hub_url

        return str(hf_hub_url(hub_id, path, revision=commit, endpoint=self.url))


def endpoints(mirrors: tuple[str, ...] = ()) -> tuple[Endpoint, ...]:
    """The hub (HF_ENDPOINT, or the library's own), then its mirrors in the order given."""
    _quiet()
    from huggingface_hub import constants
    from huggingface_hub.utils._auth import get_token

    url = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    for one in (url, *mirrors):
        _check_url(one)
    first = Endpoint(url.rstrip("/"), get_token())
    rest = (Endpoint(m.rstrip("/")) for m in mirrors)
    return (first, *(m for m in rest if m.url != first.url))


def _check_url(url: str) -> None:
    """Refuse a hub or mirror whose answers anybody on the way could change. Raises PullError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise PullError(
            f"{url} is no address to fetch models from: use https:// (http:// only on this machine).", code="unusable"
        )


def listing(hub_id: str, endpoint: Endpoint) -> Listing:
    """What the model consists of now. Blocking. Raises PullError, or Transient where trying again may help."""
    _quiet()
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import HfApi

    with trust.online():
        offline = bool(constants.is_offline_mode())
    if offline:
        raise PullError("HF_HUB_OFFLINE is set: nothing is fetched. Unset it to pull.", code="offline", status=503)
    api = HfApi(
        endpoint=endpoint.url,
        token=endpoint.token or False,
        library_name="mlx-sidecar",
        library_version=__version__,
    )
    try:
        with trust.online():
            info = api.model_info(hub_id, revision="main", files_metadata=True, timeout=_ASK)
    except HFValidationError as exc:
        raise PullError(f"{hub_id!r} is not a model's name at a hub ({exc}).", code="not_found", status=400) from exc
    except OfflineModeIsEnabled as exc:
        raise PullError(str(exc), code="offline", status=503) from exc
    except HfHubHTTPError as exc:
        answer = exc.response
        raise refusal(hub_id, answer.status_code, answer.headers, endpoint) from exc
    except Exception as exc:
        raise Transient(f"{endpoint.url} can't be reached ({type(exc).__name__}: {exc})") from exc
    files = []
    if not (info.sha and _HASH.fullmatch(info.sha)):
        raise PullError(f"{endpoint.url} names no commit of {hub_id} ({info.sha!r:.60}).", code="unusable")
    for sibling in info.siblings or []:
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        size = sibling.lfs.size if sibling.lfs else sibling.size
        digest = sibling.blob_id if sha256 is None else sha256
        if not (isinstance(size, int) and 0 <= size < _LARGEST and _HASH.fullmatch(digest or "")):
            raise PullError(
                f"{endpoint.url} gives no sizes and hashes of {hub_id}'s files: they couldn't be checked.",
                code="unusable",
            )
        files.append(HubFile(path=sibling.rfilename, size=size, sha256=sha256, git_sha1=sibling.blob_id))
    return Listing(hub_id=hub_id, commit=info.sha, files=tuple(files), gated=bool(info.gated))


def refusal(hub_id: str, status: int, headers: object, endpoint: Endpoint) -> PullError | Transient:
    """The error of an HTTP status of the hub."""
    get = getattr(headers, "get", lambda _: None)
    reason = str(get("X-Error-Code") or "")
    if status in (401, 403) and reason == "GatedRepo":
        step = "ask for access on its page" if endpoint.token else "ask for access on its page, then give your token"
        how = "" if endpoint.token else " (HF_TOKEN, or hf auth login)"
        return PullError(f"{hub_id} is gated: {step}{how}, and pull again.", code="gated", status=403)
    if status == 401 and not endpoint.token:
        return PullError(
            f"{endpoint.url} has no model {hub_id}, or shows it to some users alone. Check the name; if it is right, "
            "give your token (HF_TOKEN, or hf auth login).",
            code="not_found",
            status=404,
        )
    if status in (401, 403):
        return PullError(
            f"{endpoint.url} does not let you have {hub_id} ({status}). Check your token (HF_TOKEN, or hf auth login) "
            "and that it may read this model.",
            code="unauthorized",
            status=403,
        )
    if status in (404, 410):
        return PullError(f"{endpoint.url} has no model {hub_id}. Check the name.", code="not_found", status=404)
    if status in (408, 425, 429) or status >= 500:
        text = "has too many requests" if status == 429 else "has trouble just now"
        return Transient(f"{endpoint.url} {text} ({status})", wait=_seconds(get("Retry-After")), busy=status == 429)
    return PullError(f"{endpoint.url} refuses {hub_id} with status {status}.", code="unusable")


def _seconds(text: object) -> float | None:
    try:
        return max(0.0, float(str(text)))
    except ValueError:
        return None


def _quiet() -> None:
    """A private program: the library's usage headers stay off unless the user set them."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
