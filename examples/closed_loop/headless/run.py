"""One headless run: world, ranking, join and trainer, turn by turn in event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from xxhash import xxh3_64_intdigest

from examples.closed_loop.events import Action, Request
from examples.closed_loop.headless.join import HeadlessJoin
from examples.closed_loop.headless.model import Model, Scorer
from examples.closed_loop.headless.referee import Referee
from examples.closed_loop.headless.rows import RowTables
from examples.closed_loop.shown import as_shown
from examples.closed_loop.world import DAY, MINUTE, World
from jobs.pipeline.config import Pipeline
from trainer.config import TrainerConfig

#: What ranks the requests of an arm: the newest model, that of the end of the first day, nobody,
#: or the truth.
ARMS = ("learning", "frozen", "random", "best")


@dataclass(frozen=True)
class Plan:
    """`arms`: share of the users of each arm, by name. `refresh`: ms between two models.

    `epsilon`: share of requests that are ranked at random so that everything is tried.
    """

    arms: Mapping[str, float] = field(default_factory=lambda: {"learning": 1.0})
    refresh: int = 5 * MINUTE
    epsilon: float = 0.05
    seed: int = 0


@dataclass
class Result:
    """What came of a run. `referees`: by arm.

    `rows`: that were trained. `completeness`: the share of clicks on requests after the first day,
    and a day before the end, that a row has. `calibration`: mean score over the share of clicks, of
    what the learning arm's users have seen after the first day.
    """

    referees: dict[str, Referee]
    views: float
    rows: int
    completeness: float
    calibration: float


class Run:
    """One run, from the beginning of the world to its end."""

    def __init__(self, world: World, pipeline: Pipeline, config: TrainerConfig, plan: Plan) -> None:
        self._world, self._plan = world, plan
        self._join = HeadlessJoin(pipeline)
        self._model = Model(config)
        columns = [*self._model.columns, "request_id", "item_id"]
        self._tables = RowTables(pipeline.schema, pipeline.kinds, columns)
        sources = pipeline.sources
        self._behind = max(sources.features.out_of_orderness, sources.actions.out_of_orderness)
        self._random = np.random.default_rng([plan.seed, 17])
        self._frozen: Scorer | None = None
        self.referees = {arm: Referee() for arm in plan.arms}
        self._bounds = np.cumsum(list(plan.arms.values())) / sum(plan.arms.values())
        self._scores: dict[tuple[str, str], float] = {}
        self._clicks: dict[tuple[str, str], int] = {}
        self._seen = self._seen_clicks = 0
        self._predicted = 0.0
        self._labelled: set[tuple[str, str]] = set()

    def arm_of(self, user_id: str) -> str:
        """The arm of a user, by a hash of the id: the same in every run."""
        place = xxh3_64_intdigest(user_id.encode()) / 2**64
        return list(self._plan.arms)[int(np.searchsorted(self._bounds, place, side="right"))]

    def run(self) -> Result:
        """All of it."""
        world, settings = self._world, self._world.settings
        events = world.events()
        pending: Request | Action | None = next(events, None)
        turn = settings.begin
        while pending is not None:
            turn += self._plan.refresh
            ahead = world.upcoming(turn)
            if isinstance(pending, Request) and pending.time < turn:
                ahead = [pending, *ahead]
            rankings = self._ranked(ahead)
            while pending is not None and pending.time < turn:
                if isinstance(pending, Request):
                    self._shows(pending, rankings)
                else:
                    self._acts(pending)
                pending = next(events, None)
            self._join.advance(turn - self._behind)
            self._learn()
            if turn == settings.begin + DAY and "frozen" in self._plan.arms:
                self._frozen = self._model.frozen()
        return self._result()

    def _ranked(
        self, requests: Sequence[Request]
    ) -> Mapping[str, tuple[list[str], dict[str, float] | None]]:
        """By request id: the ranking of the model, and the scores (None: there is no model)."""
        now = self._model.scorer()
        out: dict[str, tuple[list[str], dict[str, float] | None]] = {}
        for scorer, arms in ((now, ("learning",)), (self._frozen or now, ("frozen",))):
            chosen = [r for r in requests if self.arm_of(r.user_id) in arms]
            if not chosen or scorer is None:
                continue
            scores = scorer.score(chosen).tolist()
            at = 0
            for request in chosen:
                n = len(request.candidates)
                of_item = {
                    c.item_id: s
                    for c, s in zip(request.candidates, scores[at : at + n], strict=True)
                }
                out[request.request_id] = sorted(of_item, key=lambda i: -of_item[i]), of_item
                at += n
        return out

    def _shows(
        self,
        request: Request,
        rankings: Mapping[str, tuple[list[str], dict[str, float] | None]],
    ) -> None:
        world, arm = self._world, self.arm_of(request.user_id)
        ranking, scores = rankings.get(request.request_id, ([], None))
        # the draws do not depend on the arm, so runs can be compared by seed
        explores = self._random.random() < self._plan.epsilon
        shuffled = self._random.permutation(len(request.candidates))
        if arm == "best":
            ranking = world.best(request)
        elif arm == "random" or explores or scores is None:
            ranking = [request.candidates[n].item_id for n in shuffled]
        self.referees[arm].sees(world, request, ranking)
        world.show(request, ranking)
        self._join.request(as_shown(request, ranking, scores))
        if arm == "learning" and scores is not None and request.time >= self._steady:
            self._scores.update(((request.request_id, i), s) for i, s in scores.items())

    @property
    def _steady(self) -> int:
        return self._world.settings.begin + DAY

    def _acts(self, action: Action) -> None:
        self._join.action(action)
        at = action.request_id, action.item_id
        if action.kind == "impression" and at in self._scores:
            self._seen += 1
            self._predicted += self._scores[at]
        elif action.kind == "click":
            self._clicks[at] = action.time
            self._seen_clicks += at in self._scores

    def _learn(self) -> None:
        rows = self._join.take()
        if not rows:
            return
        table = self._tables.of(rows)
        clicked = table.filter(table["delay_click_ms"].is_valid())
        named = zip(clicked["request_id"].to_pylist(), clicked["item_id"].to_pylist(), strict=True)
        self._labelled.update(named)
        self._model.learn(table.select(self._model.columns))

    def _result(self) -> Result:
        settings = self._world.settings
        last = settings.begin + round((settings.days - 1) * DAY)
        counted = [at for at, time in self._clicks.items() if self._steady <= time < last]
        found = sum(at in self._labelled for at in counted)
        return Result(
            self.referees,
            self._world.expected_views(),
            self._model.rows,
            found / max(len(counted), 1),
            self._predicted / max(self._seen_clicks, 1),
        )
