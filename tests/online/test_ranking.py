"""One request at a time: what is answered, what is logged, and what is refused before that."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest
from kafka.record import util

from jobs.pipeline import config
from online import event_log
from online.event_log import FeatureLog
from online.http_service import RefusedError
from online.model_keeper import ModelKeeper, Served
from online.ranking import RankAnswer, Ranking, RankRequest
from online.ranking_config import load
from services.waiting import wait_until
from tests.online import planted
from trainer.spec import Slot


class Recording:
    """A producer whose brokers take everything."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> Any:
        from kafka.future import Future

        event = msgspec.json.decode(value)
        assert timestamp_ms == event["event_time"]
        self.events.append(event)
        future = Future()
        future.success(None)
        return future

    def close(self, timeout: float | None = None) -> None:
        """Has sent everything."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Recording:
    producer = Recording()
    monkeypatch.setattr(event_log, "_connecting", lambda *_: lambda: producer)
    return producer


class Ranker:
    """The service without HTTP."""

    def __init__(self, folder: Path) -> None:
        planted.pipeline(folder)
        found, pipeline = load(planted.ranking(folder))
        self.log = FeatureLog(found.pipeline)
        self.keeper = ModelKeeper(
            Path(found.model), found.value, pipeline.schema, 1.0, max_candidates=20
        )
        self._ranking = Ranking(found, self.keeper, self.log, seed=3)

    def __call__(self, **more: Any) -> RankAnswer:
        asked = {
            "user_id": "u-1",
            "context": {"hour": 3},
            "candidates": planted.candidates(),
        } | more
        return self._ranking.rank(msgspec.convert(asked, RankRequest))


@pytest.fixture
def rank(tmp_path: Path, sent: Recording) -> Iterator[Ranker]:
    ranker = Ranker(tmp_path)
    yield ranker
    ranker.log.close()


def test_items_are_in_the_order_of_their_scores_or_of_chance(
    rank: Ranker, tmp_path: Path, sent: Recording
) -> None:
    made = planted.export(tmp_path, 0, "base")
    assert rank.keeper.look()
    candidates = planted.candidates()
    wanted = dict(zip((one["item_id"] for one in candidates), made.scores(candidates), strict=True))
    explored = 0
    for _ in range(60):
        answer = rank()
        assert {one.item_id: one.score for one in answer.items} == pytest.approx(wanted, abs=1e-5)
        scores = [wanted[one.item_id] for one in answer.items]
        best = [one == other for one, other in zip(scores, sorted(scores)[::-1], strict=True)]
        chances = [0.7 + 0.3 / 20 if at_best else 0.3 / 20 for at_best in best]
        assert [one.propensity for one in answer.items] == pytest.approx(chances)
        assert answer.explored or all(best)
        explored += answer.explored
    assert 5 < explored < 35
    assert answer.model is not None
    assert (answer.model.run, answer.model.number) == made.version
    assert answer.model.event_time == planted.START
    # a name of its own for each request that brought none
    assert rank.log.flush()
    assert len({event["request_id"] for event in sent.events}) == 60


def test_only_what_is_shown_is_logged(rank: Ranker, tmp_path: Path, sent: Recording) -> None:
    """Although there are more candidates than a request of the join may have."""
    planted.export(tmp_path, 0, "base")
    rank.keeper.look()
    answer = rank(top=3, candidates=planted.candidates(0, 60), request_id="r-1")
    assert len(answer.items) == 3
    assert rank.log.flush()
    (event,) = sent.events
    assert event["request_id"] == "r-1"
    assert [one["item_id"] for one in event["items"]] == [one.item_id for one in answer.items]
    with pytest.raises(RefusedError, match="too_many_items"):
        rank(candidates=planted.candidates(0, 60))


def _with(**features: Any) -> list[dict[str, Any]]:
    """Candidates of which the worst has these features, too."""
    found = planted.candidates()
    found[13]["features"] |= features
    return found


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no required feature": ({"candidates": _with(category=None)}, "category"),
    "another type": ({"candidates": _with(price="dear")}, "price"),
    "a number that is too large": ({"candidates": _with(category="red", price=10**400)}, "price"),
    "undeclared": ({"candidates": _with(weight=1.0)}, "weight"),
    "of the request": ({"candidates": _with(hour=3)}, "hour"),
    "no context": ({"context": {}}, "hour"),
    "an item's in the context": ({"context": {"hour": 3, "price": 1.0}}, "price"),
    "no id": ({"candidates": [{"item_id": "", "features": {"category": "red"}}]}, "item_id"),
    "no user": ({"user_id": " "}, "blank"),
    "no candidates": ({"candidates": []}, "candidates"),
    "too many candidates": ({"candidates": planted.candidates(0, 101)}, "candidates"),
    "what the service logs": ({"candidates": _with(rank_score=1.0)}, "rank_score"),
    "tomorrow": ({"event_time": 4_000_000_000_000}, "event_time"),
}


@pytest.mark.parametrize("model", [False, True])
def test_what_the_join_would_reject_is_refused_and_not_logged(
    model: bool, rank: Ranker, tmp_path: Path, sent: Recording
) -> None:
    """Whether it would be shown or not."""
    if model:
        planted.export(tmp_path, 0, "base")
        rank.keeper.look()
    for name, (asked, field) in WRONG.items():
        for top in (None, 1):
            with pytest.raises(RefusedError) as refused:
                rank(**asked, top=top)
            assert refused.value.status == 400
            assert field in str(refused.value), name
    assert rank.log.flush()
    assert sent.events == []


def test_a_request_that_is_asked_again_is_ranked_again_as_before(
    rank: Ranker, tmp_path: Path
) -> None:
    planted.export(tmp_path, 0, "base")
    rank.keeper.look()
    first = [rank(request_id=f"r-{n}") for n in range(40)]
    again = [rank(request_id=f"r-{n}") for n in range(40)]
    assert [one.items for one in first] == [one.items for one in again]
    assert len({str(one.items) for one in first if one.explored}) > 3


def test_a_whole_number_is_a_number(rank: Ranker, tmp_path: Path) -> None:
    """Of any size that a float64 has."""
    planted.export(tmp_path, 0, "base")
    rank.keeper.look()
    assert rank(candidates=_with(price=10**30)).fallback is None


def test_without_a_model_the_order_stays_and_is_logged(
    rank: Ranker, tmp_path: Path, sent: Recording
) -> None:
    answer = rank()
    assert (answer.model, answer.fallback, answer.explored) == (None, "no model yet", False)
    assert [one.item_id for one in answer.items] == planted.ITEMS[:20]
    assert {(one.score, one.propensity) for one in answer.items} == {(None, 1.0)}
    assert answer.logged
    assert rank.log.flush()
    assert all("rank_score" not in one["features"] for one in sent.events[0]["items"])
    assert {one["features"]["rank_propensity"] for one in sent.events[0]["items"]} == {1.0}
    assert "rank_model" not in sent.events[0]["context"]
    planted.export(tmp_path, 0, "base")
    assert rank.keeper.look()
    assert rank().fallback is None


def test_a_model_that_fails_costs_the_ranking_and_no_request(
    rank: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planted.export(tmp_path, 0, "base")
    rank.keeper.look()

    def fails(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(Served, "scores", fails)
    with caplog.at_level(logging.WARNING):
        answers = [rank(), rank()]
    assert [one.fallback for one in answers] == ["the model failed: no room"] * 2
    assert [one.model for one in answers] == [None, None]
    assert caplog.text.count("could not be scored") == 1
    monkeypatch.setattr(Served, "scores", lambda *_: np.full(20, np.nan))
    assert rank().fallback == "the model gave a score that is not finite"


# -- which model -----------------------------------------------------------------------------------


def _harmed(made: planted.Planted) -> list[tuple[Path, bytes | None]]:
    """What may be wrong with a later export: a file, and what is in it (None: it is not there)."""
    folder = made.part.parent
    manifest = next(folder.glob(f"export-*{made.manifest.number}.json"))
    current = folder.parent / "current.json"
    cut = made.part.read_bytes()[:-100]
    other = manifest.read_bytes().replace(b'"click"', b'"share"')
    return [
        (made.part, None),
        (made.part, cut),
        (manifest, None),
        (manifest, b"{"),
        (manifest, other),
        (current, b"{"),
        (current, b'{"run_id": "../elsewhere", "number": 1}'),
        (current, b'{"run_id": "run-z", "number": 1}'),
    ]


@pytest.mark.parametrize("harm", range(8))
def test_what_cannot_be_used_leaves_the_model_that_serves(
    harm: int, rank: Ranker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = planted.export(tmp_path, 0, "base")
    assert rank.keeper.look()
    second = planted.export(tmp_path, 1, "delta")
    path, content = _harmed(second)[harm]
    good = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        for failures in (1, 2, 3):
            assert not rank.keeper.look()
            assert (rank.keeper.refreshes, rank.keeper.failures) == (1, failures)
    # not each time
    assert caplog.text.count("cannot be used") == 1
    answer = rank()
    assert answer.model is not None
    assert answer.model.number == 0
    candidates = planted.candidates()
    scores = {one.item_id: one.score for one in answer.items}
    assert [scores[one["item_id"]] for one in candidates] == pytest.approx(
        first.scores(candidates), abs=1e-5
    )
    path.write_bytes(good)
    assert rank.keeper.look()
    assert not rank.keeper.look()
    assert (rank.keeper.refreshes, rank.keeper.failures) == (2, 3)


def test_what_cannot_be_used_is_read_twice_and_then_no_more(
    rank: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planted.export(tmp_path, 0, "base", damaged=True)
    reads: list[int] = []
    found = ModelKeeper._found

    def noted(keeper: ModelKeeper) -> Any:
        reads.append(1)
        return found(keeper)

    monkeypatch.setattr(ModelKeeper, "_found", noted)
    for failures in range(1, 6):
        assert not rank.keeper.look()
        assert rank.keeper.failures == failures
    assert len(reads) == 2
    # the same export, when its file is another one
    planted.flip(made.part)
    assert rank.keeper.look()
    assert len(reads) == 3


def test_an_error_of_the_disk_is_tried_again(
    rank: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.export(tmp_path, 0, "base")
    with monkeypatch.context() as patched:
        patched.setattr(ModelKeeper, "_found", Mock(side_effect=OSError("input/output error")))
        assert not rank.keeper.look()
    assert rank.keeper.look()


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (planted.spec("click"), "purchase"),
        (planted.spec(slots=(Slot("mood", "mood", "category"),)), "mood"),
    ],
)
def test_a_model_of_other_actions_or_columns_does_not_serve(
    model: Any, why: str, rank: Ranker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planted.export(tmp_path, 0, "base", "run-a", model)
    with caplog.at_level(logging.WARNING):
        assert not rank.keeper.look()
    assert why in caplog.text
    assert rank().fallback == "no usable model"
    planted.export(tmp_path, 0, "base", "run-b")
    assert rank.keeper.look()
    assert rank().fallback is None
    # and in the place of one that serves
    planted.export(tmp_path, 0, "base", "run-c", model)
    assert not rank.keeper.look()
    still = rank().model
    assert still is not None
    assert still.run == "run-b"


def test_a_thread_looks_until_it_is_told_not_to(tmp_path: Path) -> None:
    pipeline = config.load(planted.pipeline(tmp_path))
    keeper = ModelKeeper(
        planted.serving(tmp_path), planted.VALUE, pipeline.schema, 0.005, max_candidates=8
    )

    def served(number: int) -> bool:
        return keeper.served is not None and keeper.served.manifest.number == number

    keeper.start()
    for number in range(3):
        planted.export(tmp_path, number, "base" if number == 0 else "delta")
        wait_until(partial(served, number), 60, f"export {number}")
    keeper.stop()
    planted.export(tmp_path, 3, "delta")
    assert keeper.refreshes == 3


# -- the file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "why"),
    [
        ("epsilon = 0.3", "epsilon = 1.3", "exploration.epsilon"),
        ('type = "epsilon"', 'type = "softmax"\ntemperature = 0.0', "exploration.temperature"),
        ('type = "epsilon"', 'type = "greedy"', "exploration.type"),
        ("click = 1.0", "share = 1.0", "value.share"),
        ("click = 1.0", "click = nan", "value.click"),
        ('type = "epsilon"', 'type = "softmax"\ntemperature = inf', "exploration.temperature"),
        ("max_candidates = 100", "max_candidates = 0", "server.max_candidates"),
        ('refresh = "', 'refresh = "0s" # ', "refresh"),
        ("port = 0", "port = 65536", "server.port"),
        ("[server]", "[server]\nmax_body_bytes = -1", "server.max_body_bytes"),
        ("click = 1.0\npurchase = 2.5", "", "value"),
        ('"rank_score"', '"score"', "log.score"),
        ('"rank_score"', '"rank_model"', "log.score"),
        ('"rank_score"', '"rank_propensity"', "log.score"),
        ('explored = "rank_explored"', 'explored = "hour"', "log.explored"),
        ("[log]", '[log]\nmodels = "rank_model"', "models"),
    ],
)
def test_a_wrong_file_is_refused_at_the_start(was: str, now: str, why: str, tmp_path: Path) -> None:
    planted.pipeline(tmp_path)
    path = planted.ranking(tmp_path)
    load(path)
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now))
    with pytest.raises(config.ConfigError, match=why):
        load(path)


def test_the_environment_computes_checksums_in_c() -> None:
    """In Python, those of one request of 200 candidates take 8 ms of the service's only core."""
    assert util.crc32c_c is not None
