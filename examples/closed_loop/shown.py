"""What an application logs of a ranking, as records of docs/events.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from examples.closed_loop.events import Action, Candidate, Request


def as_shown(
    request: Request,
    ranking: Sequence[str],
    scores: Mapping[str, float] | None = None,
    *,
    propensity: float = 1.0,
) -> Request:
    """The request with its candidates in the order shown, and the features of the ranking.

    `scores`: by item id; None: there was no model. `propensity`: how likely the ranking was.
    """
    by_id = {candidate.item_id: candidate for candidate in request.candidates}
    candidates = []
    for item in ranking:
        features: dict[str, str | int | float] = dict(by_id[item].features)
        features["rank_propensity"] = propensity
        if scores is not None:
            features["rank_score"] = scores[item]
        candidates.append(Candidate(item, features))
    return replace(request, candidates=tuple(candidates))


def feature_record(shown: Request) -> dict[str, Any]:
    """A feature event, ready for JSON."""
    return {
        "request_id": shown.request_id,
        "user_id": shown.user_id,
        "event_time": shown.time,
        "context": shown.context,
        "items": [{"item_id": c.item_id, "features": c.features} for c in shown.candidates],
    }


def action_record(action: Action) -> dict[str, Any]:
    """An action event, ready for JSON."""
    return {
        "event_id": action.event_id,
        "request_id": action.request_id,
        "user_id": action.user_id,
        "item_id": action.item_id,
        "action": action.kind,
        "value": action.value,
        "event_time": action.time,
    }
