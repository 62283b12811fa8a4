"""Whom downloads trust."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import httpx


def tls() -> ssl.SSLContext:
    """Return what TLS trusts: the certificates pip and others are told to trust, else the usual ones."""
    for variable in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if (path := os.environ.get(variable)) and Path(path).is_file():
            return ssl.create_default_context(cafile=path)
    return httpx.create_ssl_context()
