"""The requests of one key ordered by rank: which of them show an item, and when. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from udfs.core.state_codec import StoredRequest

#: Up to this many requests are searched one by one. For more an index is built, so that a query
#: costs about the logarithm of their number.
SCAN_AT_MOST = 8

Rank = tuple[int, str]


class Shown:
    """Requests with distinct ids. Their `items` must be filled."""

    def __init__(self) -> None:
        self._requests: dict[str, StoredRequest] = {}
        self._by_item: dict[str, list[Rank]] | None = None
        # Removed requests stay in the heap until they come to its top.
        self._times: list[Rank] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[StoredRequest]:
        return iter(self._requests.values())

    def get(self, request_id: str) -> StoredRequest | None:
        """The request with this id, or None."""
        return self._requests.get(request_id)

    def add(self, request: StoredRequest) -> None:
        """Add a request; it must not be here yet."""
        self._requests[request.request_id] = request
        if self._by_item is not None:
            self._add_to(self._by_item, request)
            heappush(self._times, request.rank)
        elif len(self._requests) > SCAN_AT_MOST:
            self._by_item = {}
            for each in self._requests.values():
                self._add_to(self._by_item, each)
            self._times = [each.rank for each in self._requests.values()]
            heapify(self._times)

    def remove(self, request: StoredRequest) -> None:
        """Remove a request; it must be here."""
        del self._requests[request.request_id]
        if self._by_item is None:
            return
        rank = request.rank
        for item in dict.fromkeys(request.items):
            ranks = self._by_item[item]
            del ranks[bisect_left(ranks, rank)]
            if not ranks:
                del self._by_item[item]

    def latest(self, item: str, not_after: int) -> StoredRequest | None:
        """The request with the greatest rank that shows the item, not after a time (epoch ms)."""
        return self.before(item, (not_after + 1, ""))

    def before(self, item: str, rank: Rank) -> StoredRequest | None:
        """The request with the greatest rank below `rank` that shows the item."""
        if self._by_item is None:
            found = [r for r in self._requests.values() if r.rank < rank and item in r.items]
            return max(found, key=lambda r: r.rank, default=None)
        ranks = self._by_item.get(item)
        at = bisect_left(ranks, rank) if ranks else 0
        return self._requests[ranks[at - 1][1]] if ranks and at else None

    def after(self, item: str, rank: Rank) -> StoredRequest | None:
        """The request with the least rank above `rank` that shows the item."""
        if self._by_item is None:
            found = [r for r in self._requests.values() if r.rank > rank and item in r.items]
            return min(found, key=lambda r: r.rank) if found else None
        ranks = self._by_item.get(item)
        at = bisect_right(ranks, rank) if ranks else 0
        return self._requests[ranks[at][1]] if ranks and at < len(ranks) else None

    def earliest(self) -> int | None:
        """The least event time, epoch ms; None without requests."""
        if self._by_item is None:
            return min((r.event_time for r in self._requests.values()), default=None)
        times = self._times
        while times:
            time, request_id = times[0]
            request = self._requests.get(request_id)
            if request is not None and request.event_time == time:
                return time
            heappop(times)
        return None

    @staticmethod
    def _add_to(by_item: dict[str, list[Rank]], request: StoredRequest) -> None:
        rank = request.rank
        for item in dict.fromkeys(request.items):
            insort(by_item.setdefault(item, []), rank)
