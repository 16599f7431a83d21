"""The history checker finds what contradicts the promise of docs/trainer.md, and nothing else.

Histories are of a made-up run that keeps the promise, of random length and interleaving; each fault
is planted into such a history.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.trainer import history
from tests.trainer.history import Ack, Note, PullBegins, PullEnds, PushBegins, PushEnds

WORKERS, BATCHES, SHARDS = 3, 4, 2
SEEDS = range(50)
Lives = list[list[Note]]


def kept(rng: random.Random, *, in_steps: bool) -> Lives:
    """A run that keeps the promise: one list of notes for each worker.

    Shard s is on server s, and from the middle on shard 0 is on server 2, in another epoch.
    """
    lives: Lives = [[] for _ in range(WORKERS)]
    now, applied, done = 0.0, 0, [0] * WORKERS
    #: What each worker does next: the notes of a batch, in four parts.
    parts = [0] * WORKERS
    asked = [0.0] * WORKERS
    shown = [0] * WORKERS

    def tick() -> float:
        nonlocal now
        now += rng.uniform(0.1, 1.0)
        return now

    while min(done) < BATCHES:
        ready = [w for w in range(WORKERS) if done[w] < BATCHES]
        if in_steps:
            ready = [w for w in ready if done[w] == min(done)]
        worker = rng.choice(ready)
        mine = (worker, done[worker], done[worker] if in_steps else 0, 0)
        notes = lives[worker]
        if parts[worker] == 0:
            notes.append(PullBegins(*mine, tick()))
        elif parts[worker] == 1:
            shown[worker] = done[worker] if in_steps else applied
            notes.append(PullEnds(*mine, tick(), [shown[worker]] * 3))
        elif parts[worker] == 2:
            asked[worker] = tick()
            notes.append(PushBegins(*mine, asked[worker]))
            applied += 1
        else:
            moved = sum(done) > WORKERS * BATCHES // 2
            for shard in range(SHARDS):
                server, epoch = (2, 2) if moved and shard == 0 else (shard, 1 + moved)
                at = tick()
                notes.append(Ack(worker, done[worker], shard, server, epoch, asked[worker], at))
            notes.append(PushEnds(*mine, tick()))
            done[worker] += 1
        parts[worker] = (parts[worker] + 1) % 4
    return lives


def found(lives: Lives, *, in_steps: bool, final: int | None = None) -> list[str]:
    due = BATCHES if in_steps else WORKERS * BATCHES
    counts = [due, due, due if final is None else final]
    return history.problems(lives, in_steps=in_steps, final=counts, due=due)


def change(lives: Lives, kind: type[Note], which: int, **more: object) -> None:
    """Another value in a note: the `which`-th of that kind, in time."""
    at = [(n, i) for n, notes in enumerate(lives) for i, x in enumerate(notes) if type(x) is kind]
    n, i = sorted(at, key=lambda place: lives[place[0]][place[1]].at)[which]
    lives[n][i] = msgspec.structs.replace(lives[n][i], **more)


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_keeps_the_promise_has_no_problems(seed: int, in_steps: bool) -> None:
    assert found(kept(random.Random(seed), in_steps=in_steps), in_steps=in_steps) == []


@pytest.mark.parametrize(
    ("in_steps", "plant", "says"),
    [
        pytest.param(
            False,
            lambda lives: change(lives, PullEnds, -1, counts=[0, 9, 9]),
            "were acknowledged before",
            id="an acknowledged push is lost on one shard",
        ),
        pytest.param(
            False,
            lambda lives: change(lives, PullEnds, 0, counts=[0, 0, 50]),
            "had begun",
            id="a push counts twice",
        ),
        pytest.param(
            True,
            lambda lives: change(lives, PullEnds, -1, counts=[3, 3, 4]),
            "steps at the beginning of 3",
            id="a step is read that is not over",
        ),
        pytest.param(
            True,
            lambda lives: change(lives, PullEnds, -1, counts=[2, 3, 3]),
            "steps at the beginning of 3",
            id="a step is not read that is over",
        ),
        pytest.param(
            True,
            lambda lives: change(lives, PullEnds, 0, counts=[0, -1, 0]),
            "steps at the beginning of 0",
            id="part of a push",
        ),
        pytest.param(
            False,
            lambda lives: change(lives, Ack, 0, server=9),
            "two primaries in epoch 1",
            id="two primaries in one epoch",
        ),
        pytest.param(
            False,
            lambda lives: change(lives, Ack, -1, server=7, epoch=0, shard=0),
            "acknowledged in epoch 0",
            id="the old primary acknowledges later",
        ),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_planted_fault_is_found(
    seed: int, in_steps: bool, plant: Callable[[Lives], None], says: str
) -> None:
    lives = kept(random.Random(seed), in_steps=in_steps)
    plant(lives)
    problems = found(lives, in_steps=in_steps)
    assert problems
    assert all(says in problem for problem in problems)


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("more", [-1, 1])
def test_the_end_has_each_push_once(in_steps: bool, more: int) -> None:
    lives = kept(random.Random(1), in_steps=in_steps)
    due = BATCHES if in_steps else WORKERS * BATCHES
    assert found(lives, in_steps=in_steps, final=due + more) == [
        f"key 2 has {due + more} pushes in the end, of {due}"
    ]


def test_notes_of_a_killed_process_are_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    lives = kept(random.Random(1), in_steps=False)
    for n, notes in enumerate(lives):
        lines = b"".join(msgspec.json.encode(note) + b"\n" for note in notes)
        (tmp_path / f"history-w{n}.jsonl").write_bytes(lines + b'["pull",0,' * (n == 1))
    assert history.read(tmp_path) == lives
