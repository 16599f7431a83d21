"""Rule 16: were actions refused only where a key had too many, and did no request join more?

Which of too many are refused depends on the order of arrival, which is not known here.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from tools.audit.actions import Assignment, Requests, identity_of, name_of
from tools.audit.eras import Eras
from tools.audit.records import Action, Source
from tools.audit.report import Report, place

TOO_MANY = "too_many_actions"


def check_limits(
    eras: Eras, source: Source, requests: Requests, assignment: Assignment, report: Report
) -> None:
    """Names refused actions whose key has too few others, and requests with too many."""
    least, most = eras.actions
    _check_refused(least, source, requests, report)
    _check_joined(most, source, requests, assignment, report)


def _check_refused(least: int, source: Source, requests: Requests, report: Report) -> None:
    refused: dict[str, list[Action]] = defaultdict(list)
    for action in source.actions:
        if action.reason == TOO_MANY:
            refused[requests.key(action.event)].append(action)
    counted: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for action in source.actions:
        key = requests.key(action.event)
        if action.reason != TOO_MANY and key in refused:
            counted[key].add(identity_of(action.event))
    for key, actions in refused.items():
        for action in actions:
            others = len(counted[key]) - (identity_of(action.event) in counted[key])
            if others < least:
                why = f"rejected as {TOO_MANY}, but only {others} others of its key were not"
                report.find("action", name_of(action.event), place(action.event.origin), why)


def _check_joined(
    most: int, source: Source, requests: Requests, assignment: Assignment, report: Report
) -> None:
    by_user = requests.by_user
    joined: Counter[int] = Counter()
    for (_, impression), actions in assignment.cells.items():
        joined[int(source.impressions.request[impression])] += len(actions)
    for number, actions_of in joined.items():
        if actions_of <= most:
            continue
        request = source.accepted[number]
        # of several requests, it cannot always be told which of them an action belongs to
        if len(requests.of(request.user_id if by_user else request.request_id)) == 1:
            why = f"{actions_of} actions are neither late nor rejected; the limit is {most}"
            report.find("request", request.request_id, place(request.origin), why)
