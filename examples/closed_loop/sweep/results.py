"""One result a line, appended when its run is done, so that a sweep goes on where it was."""

from __future__ import annotations

from pathlib import Path

import msgspec

from examples.closed_loop.headless.run import Plan, Run
from examples.closed_loop.sweep.cells import ARMS, REFRESH_MIN, WORLD, Cell
from examples.closed_loop.world import DAY, MINUTE, World


class Measured(msgspec.Struct, frozen=True):
    """One run. Of the learning arm, and of the requests after the first day unless it says else.

    `ctr`: by arm, clicks an item that is seen. `regret`: by arm. `by_day`: regret of each day.
    `best_ctr`: of the best ranking. `new_clicks` and `new_best`: see `Referee.new_interest`.
    `new_interest_lost`: the regret of those users in the 12 hours after it began. `there` and
    `hits`: see `Referee`. `seconds`: of one core.
    """

    cell: Cell
    seed: int
    ctr: dict[str, float]
    best_ctr: float
    regret: dict[str, float]
    by_day: list[float]
    new_clicks: list[float]
    new_best: list[float]
    new_interest_lost: float
    there: list[int]
    hits: list[int]
    completeness: float
    calibration: float
    rows: int
    seconds: float


def measure(cell: Cell, seed: int) -> Measured:
    """Make the run. Whoever calls this says how many `seconds` it took."""
    pipeline, config = cell.configuration()
    world = World(seed, WORLD)
    arms = ARMS if cell.arms else {"learning": 1.0}
    plan = Plan(arms=arms, refresh=REFRESH_MIN * MINUTE, seed=seed)
    result = Run(world, pipeline, config, plan).run()
    begin, referee = WORLD.begin, result.referees["learning"]
    since = begin + DAY
    clicks, best = referee.new_interest(world.new_interest_at)
    ctr = {arm: r.ctr(result.views, since) for arm, r in result.referees.items()}
    regret = {arm: r.regret(since) for arm, r in result.referees.items()}
    return Measured(
        cell=cell,
        seed=seed,
        ctr=ctr,
        best_ctr=ctr["learning"] / (1 - regret["learning"]),
        regret=regret,
        by_day=[
            referee.regret(begin + day * DAY, begin + (day + 1) * DAY)
            for day in range(round(WORLD.days))
        ],
        new_clicks=clicks,
        new_best=best,
        new_interest_lost=referee.new_interest_lost(world.new_interest_at, hours=12),
        there=referee.there,
        hits=referee.hits,
        completeness=result.completeness,
        calibration=result.calibration,
        rows=result.rows,
        seconds=0.0,
    )


def read(path: Path) -> list[Measured]:
    """What is done already. A line that was cut off is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Measured))
        except msgspec.DecodeError:
            continue
    return found


def append(path: Path, measured: Measured) -> None:
    """Add a line."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(measured) + b"\n")
