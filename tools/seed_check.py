"""The prototype's test plan as a checklist: ``python -m tools.seed_check`` runs it and prints it.

Each line is one of the plan's checks (or of the changes it recorded) and the tests that hold it today.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

P, C, M, T = (f"tests/host_api/app/test_{n}.py::test_" for n in ("process", "chat", "models", "tasks"))

PLAN: list[tuple[str, list[tuple[str, list[str]]]]] = [
    (
        "What the move to two processes changed",
        [
            (
                "the built-in provider's base_url is the sidecar's",
                [M + "the_built_in_address_is_the_sidecars"],
            ),
            ("the host has no /v1/chat/completions of its own", [M + "the_host_serves_no_models_itself"]),
            (
                "assigning a capability starts or stops the process",
                [P + "no_capability_on_the_built_in_model_stops_its_process_and_one_starts_it"],
            ),
            ("a failing start check does not stop the host", [P + "the_start_is_not_held_up_by_a_sidecar_that_fails"]),
            ("streamed answers work", [C + "the_starter_model_answers_and_the_conversation_is_kept"]),
            ("logs are where they were, named by day", [P + "logs_are_named_by_day"]),
        ],
    ),
    (
        "1. Basics",
        [
            ("starting the host starts the sidecar", [M + "first_start_gives_the_starter_model_what_it_can_do"]),
            (
                "a chat message is answered, by way of the sidecar",
                [C + "the_starter_model_answers_and_the_conversation_is_kept", C + "a_chat_goes_through_the_sidecar"],
            ),
        ],
    ),
    (
        "2. Pictures and documents",
        [
            (
                "a PDF with pictures: the sidecar is asked, descriptions are made, chunks contain them",
                [T + "a_pdf_is_indexed_and_found_with_page_and_picture"],
            ),
            ("an image in a chat reaches the model", [C + "an_image_needs_a_vision_model_and_reaches_it"]),
        ],
    ),
    (
        "3. Unloading",
        [
            (
                "all capabilities elsewhere: the process is stopped",
                [P + "another_provider_needs_no_sidecar"],
            ),
            (
                "back to the built-in model: it is started again",
                [P + "no_capability_on_the_built_in_model_stops_its_process_and_one_starts_it"],
            ),
        ],
    ),
    ("4. Concurrency", [("a chat beside indexing: both work", [T + "a_chat_streams_while_a_pdf_is_indexed"])]),
    (
        "5. Edges",
        [
            ("the host is restarted", [P + "a_restarted_host_finds_the_same_sidecar"]),
            (
                "the sidecar dies",
                [
                    P + "a_killed_sidecar_comes_back",
                    C + "a_sidecar_killed_mid_answer_is_an_error_part_and_the_next_turn_works",
                    T + "both_processes_killed_on_the_way_lose_and_double_nothing",
                ],
            ),
            ("assignments change rapidly", [P + "a_hundred_changes_in_a_second_start_at_most_once"]),
        ],
    ),
]


class _Collect:
    """Remembers how each test ended."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self.passed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed.add(report.nodeid)


def main() -> int:
    """Run the plan; the exit status is 0 when every check holds."""
    root = Path(__file__).resolve().parents[1]
    wanted = sorted({t for _, checks in PLAN for _, tests in checks for t in tests})
    outcome = _Collect()
    pytest.main(["-q", "--no-header", f"--rootdir={root}", *(str(root / t) for t in wanted)], plugins=[outcome])
    lines, good = [], True
    for title, checks in PLAN:
        lines.append(f"\n{title}")
        for text, tests in checks:
            held = all(t in outcome.passed and t not in outcome.failed for t in tests)
            good = good and held
            lines.append(f"  [{'x' if held else ' '}] {text}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
