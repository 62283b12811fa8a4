"""Nothing that a client sends can make a line of the logs look like another one, and no other user reads them."""

from __future__ import annotations

import asyncio
import logging
import stat
import threading
import time
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from host_api.loopback import daily_log
from host_api.loopback.access_log import AccessLog
from host_api.loopback.daily_log import Background, DailyFile


def logged(folder: Path, logger: logging.Logger) -> list[str]:
    for handler in logger.handlers:
        handler.close()
    return (folder / f"api_{time.strftime('%Y%m%d')}.log").read_text().splitlines()


@pytest.fixture
def logger(tmp_path: Path) -> logging.Logger:
    found = logging.Logger("host.api")
    found.addHandler(DailyFile(tmp_path, "api"))
    return found


@pytest.mark.parametrize("path", ["/a\nGET /b", '/a" 200 1 ms\r\n2026', "/\x1b[2Jx", "/\u2028x", "/caf\u00e9"])
def test_a_path_stays_in_its_line(path: str, tmp_path: Path, logger: logging.Logger) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing reads")

    asyncio.run(AccessLog(app, logger)({"type": "http", "method": "GET", "path": path}, receive, send))
    (line,) = logged(tmp_path, logger)
    request_id = dict(sent[0]["headers"])[b"x-request-id"].decode()
    assert line.isprintable()
    assert line.endswith(f" ms {request_id}")
    assert line.count('"') == 2


def test_a_message_is_one_line_and_a_traceback_is_indented(tmp_path: Path, logger: logging.Logger) -> None:
    logger.error("the model %s", "x\n2026-01-01 00:00:00,000 INFO host: all is well")
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("it failed")
    lines = logged(tmp_path, logger)
    assert "x\\n2026-01-01" in lines[0]
    assert "it failed" in lines[1]
    assert all(line.startswith("  ") for line in lines[2:])


def test_a_log_file_is_its_users_alone(tmp_path: Path, logger: logging.Logger) -> None:
    logger.error("x")
    logged(tmp_path, logger)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_hangs_keeps_nobody_waiting_and_is_given_up_at_the_end(tmp_path: Path) -> None:
    """The handler behind it is asked for one line and never comes back."""
    let_go = threading.Event()
    asked = threading.Event()

    class Hanging(DailyFile):
        def emit(self, record: logging.LogRecord) -> None:
            asked.set()
            let_go.wait(60)

    logger = logging.Logger("host.api")
    handler = Background(Hanging(tmp_path, "api"))
    logger.addHandler(handler)
    for _ in range(daily_log.MOST + 10):
        logger.info("a line")
    assert asked.wait(60)
    handler.close()
    assert not let_go.is_set()
    let_go.set()


def test_lines_written_by_a_thread_are_all_there_in_order(tmp_path: Path) -> None:
    logger = logging.Logger("host.api")
    logger.addHandler(Background(DailyFile(tmp_path, "api")))
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        logger.exception("failed: %s", "x\ny")
    for number in range(100):
        logger.info("line %d", number)
    lines = logged(tmp_path, logger)
    assert lines[0].endswith("failed: x\\ny")
    assert lines[1].startswith("  Traceback")
    assert [line.rpartition(" ")[2] for line in lines[-100:]] == [str(n) for n in range(100)]
