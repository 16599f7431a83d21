"""Stands for the application: users come, items are ranked for them, and some are clicked.

    python application.py RANKING COLLECTOR [REQUESTS]

RANKING and COLLECTOR are addresses such as http://ranking:8080. REQUESTS: how many, at the rate of
ten a second; without it, until the process is stopped. Users prefer the items of their own group,
which a model can learn. A service that does not answer is asked again.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
import urllib.request
import uuid
from typing import Any

USERS, ITEMS, GROUPS = 500, 100, 5
CANDIDATES, SHOWN = 20, 5
EVERY_S = 0.1
PATIENCE_S = 300


def post(address: str, body: dict[str, Any]) -> Any:
    """What a service answers.

    Raises:
        OSError: if it does not answer well within five minutes.
    """
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def one_request(ranking: str, collector: str, random: random.Random) -> int:
    """A user is shown a page, and clicks; returns how often."""
    user = random.randrange(USERS)
    items = random.sample(range(ITEMS), CANDIDATES)
    candidates = [{"item_id": f"i-{i}", "features": {"price": 1.0 + i}} for i in items]
    page = post(
        f"{ranking}/rank",
        {
            "user_id": f"u-{user}",
            "request_id": str(uuid.UUID(int=random.getrandbits(128))),
            "context": {"hour": time.gmtime().tm_hour},
            "candidates": candidates,
            "top": SHOWN,
        },
    )
    clicks = []
    for shown in page["items"]:
        item = int(shown["item_id"].removeprefix("i-"))
        if random.random() < (0.5 if item % GROUPS == user % GROUPS else 0.05):
            clicks.append(
                {
                    "kind": "click",
                    "user_id": f"u-{user}",
                    "item_id": shown["item_id"],
                    "request_id": page["request_id"],
                    "event_id": str(uuid.UUID(int=random.getrandbits(128))),
                    "event_time": page["event_time"] + 1,
                }
            )
    if clicks:
        post(f"{collector}/actions", {"actions": clicks})
    return len(clicks)


def main(ranking: str, collector: str, requests: int | None) -> None:
    """Make requests, and say each hundredth time how it goes."""
    numbers = itertools.count(1) if requests is None else range(1, requests + 1)
    chance, clicked = random.Random(), 0
    for number in numbers:
        clicked += one_request(ranking, collector, chance)
        if number % 100 == 0:
            print(f"{number} requests, {clicked / number / SHOWN:.3f} of the items clicked")
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
