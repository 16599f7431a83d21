"""The held actions of one key, and the log that they are stored in. Pure.

Every question costs about the logarithm of the number of held actions, and every change writes only
what changed: see docs/architecture.md, "State of a key".
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from schemas.events import ActionEvent
from udfs.core.matching import identity, twin_order
from udfs.core.state_codec import LogChange, LogEntry

#: Up to this many actions are searched one by one, without an index.
SCAN_AT_MOST = 8
#: The log is rewritten when it has this many entries more than twice those that still count.
SLACK = 32


@dataclass(slots=True, eq=False)
class Held:
    """A held action.

    `name`: its identity. `at`: its index in the stored log; None if it is not stored yet. `gone`:
    it is not held any more.
    """

    action: ActionEvent
    name: int
    number: int
    at: int | None
    gone: bool = False


#: Sorted by event time, then by arrival.
_Timed = tuple[int, int, Held]


class HeldActions:
    """The held actions of one key.

    Of duplicates (rule 6) the least is `standing`. The others wait in `duplicates` to be reported.
    """

    def __init__(self, log: Iterable[LogEntry], *, watch_known: bool) -> None:
        """`watch_known`: whether `take_known` will be asked."""
        self.duplicates: list[Held] = []
        #: By request id: identities that are in the log but not in the stored request.
        self.used: dict[str, list[int]] = {}
        self._standing: dict[int, Held] = {}
        self._held: dict[int, Held] = {}  # by number, duplicates included
        # Built when needed; most keys are decided without them.
        self._by_item: dict[str, list[_Timed]] = {}
        self._unclaimed: list[_Timed] = []
        self._unwatched: list[_Timed] = []
        self._unknown: list[_Timed] = []
        self.is_indexed = False
        self._watch_known = watch_known
        self._number = 0
        # How many actions and identities the log has, and how many of the identities still count.
        self._logged = self._logged_used = 0
        self._length = 0
        self._change = LogChange([], {}, [])
        self._raw_bytes = 0
        self._fresh: list[Held] = []
        self._read(log)

    def __len__(self) -> int:
        return len(self._standing)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._standing.values())

    @property
    def weight(self) -> int:
        """About how many bytes of memory this takes."""
        return 600 * len(self._held) + self._raw_bytes + 50 * self._logged_used

    def hold(self, action: ActionEvent, name: int) -> tuple[Held, Held | None]:
        """Hold an action. Returns it, and the standing duplicate that it replaces, if any.

        If the action is itself the duplicate, it does not become standing.
        """
        held = self._new(action, name, None)
        twin = self._standing.get(name)
        if twin is not None and twin_order(twin.action) <= twin_order(action):
            self.duplicates.append(held)
            return held, None
        if twin is not None:
            self._unlist(twin)
            self.duplicates.append(twin)
        self._standing[name] = held
        if self.is_indexed:
            timed = (action.event_time, held.number, held)
            insort(self._by_item.setdefault(action.item_id, []), timed)
            heappush(self._unclaimed, timed)
        elif len(self._standing) > SCAN_AT_MOST:
            self._index()
        return held, twin

    def has(self, name: int) -> bool:
        """Whether an action with this identity is held."""
        return name in self._standing

    def stands(self, held: Held) -> bool:
        """Whether the action is still held, and no duplicate has replaced it."""
        return self._standing.get(held.name) is held

    def turns_out_duplicate(self, held: Held) -> None:
        """The action stops standing, and will be reported as a duplicate."""
        self._unlist(held)
        self.duplicates.append(held)

    def release(self, held: Held) -> None:
        """The action is not held any more."""
        if self.stands(held):
            self._unlist(held)
        held.gone = True
        del self._held[held.number]
        self._raw_bytes -= len(held.action.raw)
        if held.at is not None:
            self._change.released.append(held.at)

    def release_all(self) -> None:
        """As `release`, for each standing action."""
        for held in self._standing.values():
            held.gone = True
            if held.at is not None:
                self._change.released.append(held.at)
        self._held = {held.number: held for held in self.duplicates}
        self._raw_bytes = sum(len(held.action.raw) for held in self.duplicates)
        self._standing.clear()
        self._by_item.clear()

    def between(self, item: str, start: int, end: int) -> list[_Timed]:
        """The standing actions on an item with `start` <= event time < `end` (epoch ms)."""
        timed = self._by_item.get(item)
        if timed is None:
            return []
        return timed[bisect_left(timed, (start,)) : bisect_left(timed, (end,))]

    def items_among(self, items: list[str]) -> list[str]:
        """Which of these items have standing actions, each once."""
        by_item = self._by_item
        if len(by_item) <= len(items):
            return [item for item in by_item if item in items]
        return [item for item in dict.fromkeys(items) if item in by_item]

    # -- what time brings --------------------------------------------------------------------------

    def take_known(self, until: int) -> list[Held]:
        """Standing actions with an event time of at most `until`. Each is taken once."""
        self._index()
        return self._take(self._unknown, until)

    def will_be_known(self, held: Held) -> None:
        """`take_known` will return this action."""
        self._index()
        heappush(self._unknown, (held.action.event_time, held.number, held))

    def take_unclaimed(self, until: int) -> list[Held]:
        """As `take_known`, for actions that no request can claim any more."""
        self._index()
        return self._take(self._unclaimed, until)

    def first_unclaimed(self) -> int | None:
        """The least event time of what `take_unclaimed` has still to return; None without any."""
        self._index()
        heap = self._unclaimed
        while heap and (heap[0][2].gone or not self.stands(heap[0][2])):
            heappop(heap)
        return heap[0][0] if heap else None

    def take_unwatched(self, until: int | None) -> list[Held]:
        """As `take_known`, for actions that may have no timer of their own; None means all."""
        self._index()
        return self._take(self._unwatched, until)

    def unwatched(self, held: Held) -> None:
        """The action has no timer of its own, so `take_unwatched` will return it."""
        if not self.is_indexed:
            return  # a new index contains all of them
        heappush(self._unwatched, (held.action.event_time, held.number, held))

    def _take(self, heap: list[_Timed], until: int | None) -> list[Held]:
        taken: list[Held] = []
        while heap and (until is None or heap[0][0] <= until):
            held = heappop(heap)[2]
            if not held.gone and self.stands(held):
                taken.append(held)
        return taken

    # -- the log -----------------------------------------------------------------------------------

    def use(self, request_id: str, name: int) -> None:
        """A tombstone names a late action with this identity."""
        self.used.setdefault(request_id, []).append(name)
        self._change.used.setdefault(request_id, []).append(name)
        self._logged_used += 1

    def forget(self, request_id: str) -> None:
        """A tombstone is removed, and with it the identities that it used."""
        names = self.used.pop(request_id, None)
        if names is not None:
            self._logged_used -= len(names)
            self._change.used.pop(request_id, None)
            self._change.forgotten.append(request_id)

    def take_log(self) -> tuple[list[LogEntry], bool]:
        """What must be written because of changes since the last call.

        Returns entries, and whether they replace the whole log (an empty list then clears it) or
        are appended.
        """
        change = self._change
        new = [held for held in self._fresh if not held.gone]
        self._fresh = []
        if not new and not (change.released or change.used or change.forgotten):
            return [], False
        self._change = LogChange([], {}, [])
        more = len(new) + len(change.released) + sum(map(len, change.used.values()))
        counts = len(self._held) + self._logged_used
        if not counts or self._logged + more > 2 * counts + SLACK:
            return self._whole_log(), True
        entries: list[LogEntry] = []
        if change.released or change.used or change.forgotten:
            entries.append(change)
        self._length += len(entries)
        for held in new:
            held.at = self._length
            self._length += 1
            entries.append(held.action)
        self._logged += more
        return entries, False

    def _whole_log(self) -> list[LogEntry]:
        entries: list[LogEntry] = []
        if self.used:
            entries.append(LogChange([], {i: list(names) for i, names in self.used.items()}, []))
        for held in self._held.values():
            held.at = len(entries)
            entries.append(held.action)
        self._length = len(entries)
        self._logged = len(self._held) + self._logged_used
        return entries

    def _read(self, log: Iterable[LogEntry]) -> None:
        actions: dict[int, ActionEvent] = {}
        at = -1
        for at, entry in enumerate(log):
            if isinstance(entry, ActionEvent):
                actions[at] = entry
                continue
            for released in entry.released:
                actions.pop(released, None)
            for request_id in entry.forgotten:
                self.used.pop(request_id, None)
            for request_id, names in entry.used.items():
                self.used.setdefault(request_id, []).extend(names)
            self._logged += 2 * len(entry.released) + sum(map(len, entry.used.values()))
        self._length = at + 1
        self._logged += len(actions)
        self._logged_used = sum(map(len, self.used.values()))
        standing = self._standing
        for at, action in actions.items():
            held = self._new(action, identity(action), at)
            twin = standing.get(held.name)
            if twin is not None and twin_order(twin.action) <= twin_order(action):
                self.duplicates.append(held)
                continue
            if twin is not None:
                self.duplicates.append(twin)
            standing[held.name] = held
        if len(standing) > SCAN_AT_MOST:
            self._index()

    def _index(self) -> None:
        if self.is_indexed:
            return
        self.is_indexed = True
        standing = self._standing.values()
        timed = sorted((held.action.event_time, held.number, held) for held in standing)
        for each in timed:
            self._by_item.setdefault(each[2].action.item_id, []).append(each)
        # A sorted list is a heap.
        self._unclaimed = timed
        self._unwatched = timed[:]
        self._unknown = timed[:] if self._watch_known else []

    def _new(self, action: ActionEvent, name: int, at: int | None) -> Held:
        self._number += 1
        held = Held(action, name, self._number, at)
        self._held[held.number] = held
        self._raw_bytes += len(action.raw)
        if at is None:
            self._fresh.append(held)
        return held

    def _unlist(self, held: Held) -> None:
        """The action stops standing."""
        del self._standing[held.name]
        if not self.is_indexed:
            return
        item = held.action.item_id
        timed = self._by_item[item]
        del timed[bisect_left(timed, (held.action.event_time, held.number))]
        if not timed:
            del self._by_item[item]
