"""A step of rows in whose forward pass pieces of prompts are processed too, in terms of batches and prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sidecar.engine.choosing import Row
from sidecar.engine.decoding import DecodeBatch
from sidecar.engine.prefill import Begun, Prefill
from sidecar.engine.prompt_stage import PromptStage
from sidecar.engine.recovery import Recovery
from sidecar.engine.rows import Token

log = logging.getLogger("sidecar.engine")


def step(
    batch: DecodeBatch, prompts: Sequence[tuple[Prefill, int]], stage: PromptStage, recovery: Recovery
) -> tuple[list[tuple[Row, Token]], list[Begun]]:
    """Decode ``batch`` and process so many tokens of each of ``prompts``; return tokens and prompts that are done.

    If the pass fails, all of them are begun again and the model has no such passes any more.
    """
    try:
        pieces = [(prefill, prefill.piece(tokens)) for prefill, tokens in prompts]
        last = [piece for prefill, piece in pieces if piece.shape[1] == prefill.remaining]
        produced, scores = batch.step_with([piece for _, piece in pieces], last)
    except Exception as exc:
        requests = [request for prefill, _ in prompts for request in prefill.requests]
        for prefill, _ in prompts:
            stage.drop(prefill)
        batch.broken = []
        recovery.mix_failed(batch.take_all(), requests, exc)
        return [], []
    begun, at = [], 0
    for prefill, piece in pieces:
        if not prefill.took(piece):
            continue
        rows = piece.shape[0]
        stage.drop(prefill)
        try:
            begun.append(prefill.finished(scores[at : at + rows], piece))
        except Exception as exc:
            recovery.group_failed(prefill.requests, exc)
        at += rows
    return produced, begun
