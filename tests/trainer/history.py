"""What workers noted of their pulls and pushes, and what must be true of it.

Every push adds 1 to each of some keys, and a pull shows how many there were. Times are seconds of
one clock. What docs/trainer.md promises, as a condition on the notes:

* a push counts once: a pull shows no more than had begun when it ended, and in the end there are as
  many as batches;
* what was acknowledged stays: a pull shows all pushes that had ended when it began;
* BSP: a pull of step n shows n steps, so never a push that could still be lost;
* for a shard one primary acknowledges: in an epoch one server, and none of an older epoch what was
  asked after one of a newer epoch acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec


class PushBegins(msgspec.Struct, frozen=True, tag="push", array_like=True):
    worker: int
    sequence: int
    step: int
    generation: int
    at: float


class PushEnds(PushBegins, frozen=True, tag="pushed", array_like=True):
    """Every shard has acknowledged it."""


class PullBegins(PushBegins, frozen=True, tag="pull", array_like=True):
    pass


class PullEnds(PushBegins, frozen=True, tag="pulled", array_like=True):
    """`counts`: of each key, how many pushes (BSP: steps) it shows; -1: no such number of them."""

    counts: list[int]


class Ack(msgspec.Struct, frozen=True, tag="ack", array_like=True):
    """`server` has acknowledged a push for `shard` that was asked under `epoch`."""

    worker: int
    sequence: int
    shard: int
    server: int
    epoch: int
    asked: float
    at: float


Note = PushBegins | PushEnds | PullBegins | PullEnds | Ack
_notes = msgspec.json.Decoder(Note)


def read(folder: Path) -> list[list[Note]]:
    """The notes of each process, in its order, without a line that a killed one has not ended."""
    return [
        [_notes.decode(line) for line in path.read_bytes().split(b"\n")[:-1]]
        for path in sorted(folder.glob("history-*.jsonl"))
    ]


def problems(
    history: Iterable[Sequence[Note]],
    *,
    in_steps: bool,
    final: Sequence[int],
    due: int,
    begins: Mapping[int, int] | None = None,
) -> list[str]:
    """What contradicts the promise. `final`: how many pushes (BSP: steps) each key has in the end.

    `due`: how many there were to be. `begins`: with how many each generation began, after a
    roll-back: those of the checkpoint. None: with none.
    """
    lives = [list(notes) for notes in history]
    found = [
        f"key {n} has {got} pushes in the end, of {due}"
        for n, got in enumerate(final)
        if got != due
    ]
    found += _of_pulls(lives, begins or {}, in_steps=in_steps)
    return found + of_primaries(lives)


def of_primaries(history: Iterable[Sequence[Note]]) -> list[str]:
    """What contradicts the promise in who acknowledged."""
    acks = (note for notes in history for note in notes if isinstance(note, Ack))
    return list(_of_primaries(list(acks)))


def _of_pulls(
    lives: Sequence[Sequence[Note]], begins: Mapping[int, int], *, in_steps: bool
) -> Iterator[str]:
    begun: dict[tuple[int, int, int], float] = {}
    ended: dict[tuple[int, int, int], float] = {}
    for note in (note for notes in lives for note in notes):
        # one push may be made by two processes: the first of each counts
        if isinstance(note, PushEnds):
            name = (note.generation, note.worker, note.sequence)
            ended[name] = min(ended.get(name, note.at), note.at)
        elif type(note) is PushBegins:
            name = (note.generation, note.worker, note.sequence)
            begun[name] = min(begun.get(name, note.at), note.at)
    for notes in lives:
        began: PullBegins | None = None
        for note in notes:
            if isinstance(note, PullBegins):
                began = note
            elif isinstance(note, PullEnds):
                assert began is not None
                who = f"the pull of worker {note.worker} for its batch {note.sequence}"
                before = begins.get(note.generation, 0)
                least, most = (count - before for count in (min(note.counts), max(note.counts)))
                if in_steps:
                    if (least, most) != (note.step, note.step):
                        yield f"{who} shows {least} to {most} steps at the beginning of {note.step}"
                    continue
                here = note.generation
                safe = sum(at < began.at for (g, *_), at in ended.items() if g == here)
                all_begun = sum(at < note.at for (g, *_), at in begun.items() if g == here)
                if least < safe:
                    yield f"{who} shows {least} pushes; {safe} were acknowledged before"
                if most > all_begun:
                    yield f"{who} shows {most} pushes; {all_begun} had begun"


def _of_primaries(acks: Sequence[Ack]) -> Iterator[str]:
    for shard in sorted({ack.shard for ack in acks}):
        mine = sorted((ack for ack in acks if ack.shard == shard), key=lambda ack: ack.at)
        for epoch in sorted({ack.epoch for ack in mine}):
            servers = {ack.server for ack in mine if ack.epoch == epoch}
            if len(servers) > 1:
                yield f"shard {shard} has two primaries in epoch {epoch}: servers {sorted(servers)}"
        first: dict[int, Ack] = {}
        for ack in mine:
            first.setdefault(ack.epoch, ack)
        for ack in mine:
            for epoch, newer in first.items():
                if epoch > ack.epoch and newer.server != ack.server and newer.at < ack.asked:
                    yield (
                        f"shard {shard}: server {ack.server} acknowledged in epoch {ack.epoch} what"
                        f" was asked after server {newer.server} had in epoch {epoch}"
                    )
