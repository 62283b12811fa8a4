"""Both loopback addresses: clients that ask localhost come to the same server, and nobody's port is taken."""

from __future__ import annotations

import socket
import sys
from contextlib import closing

import pytest

from host_api.loopback import listen


def ipv6() -> bool:
    """Whether this machine has ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6(), reason="this machine has no ::1")


@needs_ipv6
def test_both_addresses_have_one_port() -> None:
    found = listen.beside(listen.bind("127.0.0.1", 0, strict=False))
    port = found[0].getsockname()[1]
    assert [s.getsockname()[:2] for s in found] == [("127.0.0.1", port), ("::1", port)]
    for host in ("127.0.0.1", "::1"):
        assert listen.answers(host, port)
    for sock in found:
        sock.close()
    again = listen.beside(listen.bind("127.0.0.1", port, strict=True))  # a restart takes both at once
    assert len(again) == 2
    for sock in again:
        sock.close()


@needs_ipv6
def test_somebody_elses_port_of_the_other_address_is_left_alone() -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::1", 0))
        other.listen()
        with closing(listen.bind("127.0.0.1", other.getsockname()[1], strict=True)) as sock:
            assert listen.beside(sock) == [sock]


def test_other_addresses_stay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("127.0.0.2", "::1") if ipv6() and sys.platform == "linux" else ():
        with closing(listen.bind(host, 0, strict=False)) as sock:
            assert listen.beside(sock) == [sock]
    with closing(listen.bind("127.0.0.1", 0, strict=False)) as sock:
        monkeypatch.setattr(socket, "has_ipv6", False)
        assert listen.beside(sock) == [sock]
