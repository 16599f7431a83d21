"""When rows come out, worked by hand: docs/emission-policies.md, and the edges of rules 8, 10, 11
and 14. Core and oracle both have to give them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.pipeline.config import load
from tests import core_runner, oracle
from tests.core_runner import CoreRunner
from tests.strategies import any_rules, build, policies_for, preset, random_timelines
from tests.timeline import (
    END,
    Key,
    LabelSilence,
    Outcome,
    Request,
    Row,
    Rules,
    Sampling,
    Timeline,
    parse,
)

KEYS: tuple[Key, ...] = ("request_id", "user_id")
WAIT = Rules(
    "request_id", {"click": 10_000, "purchase": 60_000}, {"click": "any", "purchase": "any"}
)
#: One kind, a window of 10.
SHORT = Rules("request_id", {"click": 10}, {"click": "any"})
NOW = preset("fake_negative", SHORT)
ES_DFM = preset("es_dfm", SHORT, 5)
DEFER = preset("defer", SHORT, 5)
#: `view` says that an item was on screen.
SEEN = Rules("request_id", {"view": 10, "click": 10}, {"view": "any", "click": "any"})
SEEN = replace(SEEN, exposure="view")


def outcome(text: str, rules: Rules) -> Outcome:
    timeline = parse(text)
    got = core_runner.run(timeline, rules)
    assert got == oracle.expected(timeline, rules)
    return got


def lines(text: str, rules: Rules) -> list[str]:
    return outcome(text, rules).lines()


# -- docs/emission-policies.md ---------------------------------------------------------------------

ONE_IMPRESSION = """
    r1 u1 @0 [i1 i2]                # nobody touches i2
    wm 0
    click u1 i1 r1 @4_000
    wm 4_000
    wm 5_000
    purchase u1 i1 r1 @40_000
    wm 40_000
    wm 60_000
    end 60_000
"""


@pytest.mark.parametrize(
    ("policy", "touched", "untouched"),
    [
        (
            "wait",
            ["click=1+4000 purchase=1+40000 @60000"],
            ["click=0 purchase=0 @60000"],
        ),
        (
            "fake_negative",
            [
                "click=0~ purchase=0~ provisional after 0 @0",
                "click=1+4000~ purchase=0~ positive r1 after 4000 @4000",
                "click=1+4000 purchase=1+40000~ positive r2 after 40000 @40000",
            ],
            ["click=0~ purchase=0~ provisional after 0 @0"],
        ),
        (
            "es_dfm",
            [
                "click=1+4000~ purchase=0~ provisional after 5000 @5000",
                "click=1+4000 purchase=1+40000~ positive r1 after 40000 @40000",
            ],
            ["click=0~ purchase=0~ provisional after 5000 @5000"],
        ),
        (
            "defer",
            [
                "click=1+4000~ purchase=0~ provisional after 5000 @5000",
                "click=1+4000 purchase=1+40000~ positive r1 after 40000 @40000",
                "click=1+4000 purchase=1+40000 r2 @60000",
            ],
            [
                "click=0~ purchase=0~ provisional after 5000 @5000",
                "click=0 purchase=0 r1 @60000",
            ],
        ),
    ],
)
def test_one_impression_under_each_policy(
    policy: str, touched: list[str], untouched: list[str]
) -> None:
    got = lines(ONE_IMPRESSION, preset(policy, WAIT, 5_000))
    assert got == [f"r1[0] i1 {x}" for x in touched] + [f"r1[1] i2 {x}" for x in untouched]


@pytest.mark.parametrize("policy", ["wait", "fake_negative", "es_dfm", "defer"])
def test_the_policies_of_a_configuration_are_those_of_the_page(policy: str, tmp_path: Path) -> None:
    config = tmp_path / "pipeline.toml"
    needs_d = '[emission]\nfirst_emit_after = "5ms"\n' if policy in ("es_dfm", "defer") else ""
    config.write_text(
        f'[join]\npolicy = "{policy}"\n{needs_d}[actions.click]\nwindow = "10ms"\n'
        '[sources.features]\ntype = "files"\npath = "f"\n'
        '[sources.actions]\ntype = "files"\npath = "a"\n[output]\npath = "out"\n'
    )
    assert load(config).rules == core_runner.core_rules(preset(policy, SHORT, 5))


def test_if_changed_says_the_end_of_the_window_only_of_those_that_changed() -> None:
    rules = replace(SHORT, first_emit_after=5, final_emit="if_changed")
    got = lines(
        "r1 u1 @100 [i1 i2]\nclick u1 i1 r1 @105\nclick u1 i2 r1 @106\nwm 110\nend 110", rules
    )
    assert got == [
        "r1[0] i1 click=1+5~ provisional after 5 @110",
        "r1[1] i2 click=0~ provisional after 5 @110",
        "r1[1] i2 click=1+6 r1 @110",
    ]


@pytest.mark.parametrize("final", ["if_changed", "never"])
def test_those_without_a_row_get_one_at_the_deadline_whatever_is_set(final: str) -> None:
    rules = replace(SHORT, final_emit=final)  # type: ignore[arg-type]
    text = "r1 u1 @100 [i1 i2]\nclick u1 i1 r1 @105\nwm 110\nend 110"
    assert lines(text, rules) == ["r1[0] i1 click=1+5 @110", "r1[1] i2 click=0 @110"]
    assert lines(text, replace(rules, emit_positives="on_arrival")) == [
        "r1[0] i1 click=1+5~ positive after 5 @110",
        "r1[1] i2 click=0 @110",
    ]


# -- 14. the first moment --------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [0, 3])
def test_the_first_moment_knows_what_happened_up_to_it(skew: int) -> None:
    text = "r1 u1 @100 [i1 i2]\nclick u1 i1 r1 @105\nclick u1 i2 r1 @106\nwm {}\nend 200"
    rules = replace(ES_DFM, skew=skew)
    assert "provisional" in lines(text.format(105 + skew), rules)[0]
    assert lines(text.format(104 + skew), rules) == [
        "r1[0] i1 click=1+5~ provisional after 5 @end",
        "r1[1] i2 click=0~ provisional after 5 @end",
        "r1[1] i2 click=1+6~ positive r1 after 6 @end",
    ]


@pytest.mark.parametrize(
    ("wm", "rows"),
    [
        (104, ["provisional after 5 @109", "r1 @end"]),
        (105, ["provisional after 6 @109", "r1 @end"]),
        (108, ["provisional after 9 @109", "r1 @end"]),
        (109, ["@end"]),  # its first moment would be the deadline
    ],
)
def test_a_request_that_comes_after_its_first_moment(wm: int, rows: list[str]) -> None:
    text = f"wm {wm}\nr1 u1 @100 [i1]\nwm 109\nend 200"
    got = lines(text, DEFER)
    assert [line.replace("click=0~ ", "").replace("click=0 ", "") for line in got] == [
        f"r1[0] i1 {row}" for row in rows
    ]


def test_lateness_moves_the_deadline_and_the_labels_go_on_changing() -> None:
    got = lines(
        """
        r1 u1 @100 [i1]
        wm 112
        click u1 i1 r1 @110
        wm 114
        end 114
        """,
        replace(ES_DFM, lateness=4),
    )
    assert got == [
        "r1[0] i1 click=0~ provisional after 5 @112",
        "r1[0] i1 click=1+10 positive r1 @112",  # observed for all of W
    ]


# -- 14. changes -----------------------------------------------------------------------------------


def test_an_action_that_comes_after_its_time_is_known_on_arrival() -> None:
    got = lines("r1 u1 @100 [i1]\nwm 107\nclick u1 i1 r1 @103\nend 200", NOW)
    assert got == [
        "r1[0] i1 click=0~ provisional after 0 @107",
        "r1[0] i1 click=1+3~ positive r1 after 7 @107",
    ]


@pytest.mark.parametrize(("wm", "made"), [(105, "@108"), (106, "@106"), (107, "@107")])
def test_an_action_is_known_when_the_watermark_reaches_its_time_and_the_skew(
    wm: int, made: str
) -> None:
    text = f"r1 u1 @100 [i1]\nwm {wm}\nclick u1 i1 r1 @103\nwm 108\nend 200"
    assert lines(text, replace(NOW, skew=3))[1].endswith(made)


def test_an_action_that_comes_before_its_request_is_known_at_its_time() -> None:
    got = lines("click u1 i1 r1 @104\nwm 100\nr1 u1 @100 [i1]\nwm 104\nend 200", NOW)
    assert got == [
        "r1[0] i1 click=0~ provisional after 1 @104",  # accepted at 100, so a moment later
        "r1[0] i1 click=1+4~ positive r1 after 4 @104",
    ]


def test_actions_of_one_moment_make_one_row() -> None:
    rules = replace(NOW, labels={"click": "count"})
    text = "r1 u1 @100 [i1]\nclick u1 i1 r1 @104 #a\nclick u1 i1 r1 @{} #b\nwm 109\nend 200"
    assert len(lines(text.format(104), rules)) == 2
    assert len(lines(text.format(105), rules)) == 3


def test_labels_change_and_not_delays() -> None:
    text = """
        r1 u1 @100 [i1]
        click u1 i1 r1 @104 #a =1
        click u1 i1 r1 @106 #b =-1
        wm 107
        click u1 i1 r1 @102 #c =0
        end 200
    """
    assert len(lines(text, NOW)) == 2
    assert lines(text, replace(NOW, labels={"click": "sum"})) == [
        "r1[0] i1 click=0~ provisional after 0 @107",
        "r1[0] i1 click=1+4~ positive r1 after 4 @107",
        "r1[0] i1 click=0+4~ positive r2 after 6 @107",
    ]


def test_a_copy_changes_nothing_and_a_lesser_twin_may() -> None:
    text = "r1 u1 @100 [i1]\nclick u1 i1 r1 @104 #e =3\nwm 105\nclick u1 i1 r1 @104 #e ={}\nend 200"
    rules = replace(NOW, labels={"click": "sum"})
    assert len(lines(text.format(3), rules)) == 3  # two rows and a duplicate
    assert lines(text.format(2), rules) == [
        "r1[0] i1 click=0~ provisional after 0 @105",
        "r1[0] i1 click=3+4~ positive r1 after 4 @105",
        "r1[0] i1 click=2+4~ positive r2 after 5 @105",
        "duplicate_action click i1 @104 #e =3",
    ]


def test_by_user_the_later_request_has_it_from_the_start() -> None:
    """With S an action waits for the requests that may take it: r2 is read by t_a + S."""
    got = lines(
        """
        r1 u1 @100 [i1]
        click u1 i1 - @104
        wm 106
        r2 u1 @107 [i1]
        wm 107
        end 200
        """,
        replace(NOW, key="user_id", skew=3),
    )
    assert got == [
        "r1[0] i1 click=0~ provisional after 0 @106",
        "r2[0] i1 click=1-3~ provisional after 0 @end",
    ]


def test_what_a_request_beyond_the_bounds_takes_is_put_right_at_the_next_moment() -> None:
    """Only an action that becomes known is a change; r2, too late for that, took r1's."""
    text = """
        r1 u1 @100 [i1]
        click u1 i1 - @104
        wm 105
        r2 u1 @103 [i1]
        wm 108
        {}
        wm 110
        end 200
    """
    rules = replace(NOW, key="user_id", final_emit="if_changed")
    shown = [
        "r1[0] i1 click=0~ provisional after 0 @105",
        "r1[0] i1 click=1+4~ positive r1 after 4 @105",
    ]
    taken = "r2[0] i1 click=1+1~ provisional after 3 @108"
    assert lines(text.format(""), rules) == [*shown, "r1[0] i1 click=0 r2 @110", taken]
    # one click again, so nothing has changed
    assert lines(text.format("click u1 i1 - @102"), rules) == [*shown, taken]


def test_an_action_at_the_very_end_of_the_window_is_a_change_before_the_deadline() -> None:
    text = "r1 u1 @100 [i1 i2]\nclick u1 i1 r1 @110\nwm 110\nend 110"
    assert lines(text, NOW) == [
        "r1[0] i1 click=0~ provisional after 0 @110",
        "r1[0] i1 click=1+10 positive r1 @110",
        "r1[1] i2 click=0~ provisional after 0 @110",
    ]
    assert lines(text, DEFER)[1:3] == [
        "r1[0] i1 click=1+10 positive r1 @110",
        "r1[0] i1 click=1+10 r2 @110",
    ]


# -- 8. exposure -----------------------------------------------------------------------------------

VIEWED = """
    r1 u1 @100 [i1 i2 i3 i4]
    view u1 i1 r1 @101              # i1 seen before the first moment, i2 after it
    view u1 i2 r1 @106
    click u1 i3 r1 @107             # a click says so too; nobody saw i4
    wm 110
    end 110
"""


def test_what_is_not_exposed_is_no_negative() -> None:
    got = outcome(VIEWED, SEEN)
    assert got.lines() == [
        "r1[0] i1 view=1+1 click=0 exposed @110",
        "r1[1] i2 view=1+6 click=0 exposed @110",
        "r1[2] i3 view=0 click=1+7 exposed @110",
    ]
    assert got.counters["unexposed"] == 1


def test_what_is_not_exposed_may_be_marked() -> None:
    got = outcome(VIEWED, replace(SEEN, unexposed="mark"))
    assert got.lines()[3] == "r1[3] i4 view=0 click=0 unexposed @110"
    assert got.counters["unexposed"] == 0


def test_its_row_comes_when_it_is_exposed() -> None:
    got = outcome(VIEWED, preset("es_dfm", SEEN, 5))
    assert got.lines() == [
        "r1[0] i1 view=1+1~ click=0~ provisional exposed after 5 @110",
        "r1[1] i2 view=1+6~ click=0~ provisional exposed after 6 @110",
        "r1[2] i3 view=0~ click=1+7~ positive exposed after 7 @110",
    ]
    assert got.counters["unexposed"] == 1
    late = outcome(VIEWED, replace(SEEN, first_emit_after=5))
    assert late.lines()[1:3] == [
        "r1[0] i1 view=1+1 click=0 r1 exposed @110",
        "r1[1] i2 view=1+6 click=0 exposed @110",  # nothing between the first and the last moment
    ]


def test_a_view_that_changes_no_label_brings_the_row_all_the_same() -> None:
    rules = preset("es_dfm", replace(SEEN, labels={"view": "sum", "click": "any"}), 5)
    text = "r1 u1 @100 [i1]\nview u1 i1 r1 @106 =0\nview u1 i1 r1 @107 =0\nwm 110\nend 110"
    assert lines(text, rules) == [
        "r1[0] i1 view=0+6~ click=0~ provisional exposed after 6 @110",
    ]
    # without a first row it is as unchanged as any other
    assert lines(text, replace(rules, first_emit_after=None)) == [
        "r1[0] i1 view=0+6 click=0 exposed @110"
    ]


def test_an_item_that_is_shown_twice_is_exposed_once() -> None:
    got = outcome("r1 u1 @100 [i1 i1]\nview u1 i1 r1 @101\nwm 110\nend 110", SEEN)
    assert got.lines() == ["r1[0] i1 view=1+1 click=0 exposed @110"]
    assert got.counters["unexposed"] == 1


# -- 10. label silence -----------------------------------------------------------------------------

SILENT = """
    r1 u1 @100 [i1]
    click u1 i1 r1 @104             # A
    wm 109                          # as far as A + T: nothing is held
    wm 130                          # a silence
    r2 u1 @108 [i1]                 # the join sees 109, so it is not late
    click u1 i1 r1 @107 #late       # a straggler
    click u1 i1 r2 @112 #held
    click u1 i1 r2 @130 #new        # and its end
    end 130
"""


def test_a_silence_holds_what_hangs_on_labels() -> None:
    rules = replace(SHORT, labels={"click": "count"}, silence=LabelSilence(5))
    assert lines(SILENT, rules) == [
        "r1[0] i1 click=2+4 @112",
        "r2[0] i1 click=1+4 @130",
        "orphan_action click i1 @130 #new",  # beyond its horizon, that is all
    ]


def test_actions_that_flow_again_may_be_out_of_order() -> None:
    rules = replace(SHORT, labels={"click": "count"}, silence=LabelSilence(5, None, 3))
    assert lines(SILENT, rules)[0] == "r1[0] i1 click=2+4 @130"


def test_a_hold_of_limited_length_lets_marked_rows_go() -> None:
    rules = replace(SHORT, silence=LabelSilence(5, 2))
    text = "r1 u1 @100 [i1 i2]\nclick u1 i1 r1 @101\nwm 111\nwm {}\nclick u1 i2 r1 @102\nend 102"
    assert lines(text.format(112), rules) == [
        "r1[0] i1 click=1+1~ after 6 @110",  # as much as it may show
        "r1[1] i2 click=0~ after 6 @110",
        "late r1[1] click i2 @102 +2 after_settle",
    ]
    assert lines(text.format(111), rules) == [
        "r1[0] i1 click=1+1~ after 2 @end",
        "r1[1] i2 click=1+2~ after 2 @end",
    ]


@pytest.mark.parametrize(
    ("before", "row"),
    [
        ("", "click=0~ after ? @120"),  # no action was ever seen
        ("click u9 i9 r9 @94\n", "click=0~ after ? @120"),  # A + T is before the request
        ("click u9 i9 r9 @95\n", "click=0~ after 0 @120"),
        ("click u9 i9 r9 @104\n", "click=0~ after 9 @120"),
        ("click u9 i9 r9 @105\n", "click=0 @120"),
    ],
)
def test_without_a_hold_rows_are_only_marked(before: str, row: str) -> None:
    rules = replace(SHORT, silence=LabelSilence(5, 0))
    got = lines(f"{before}r1 u1 @100 [i1]\nwm 120\nend", rules)
    assert got[0] == f"r1[0] i1 {row}"


def test_before_the_first_action_nothing_goes() -> None:
    rules = replace(SHORT, silence=LabelSilence(5))
    got = lines("r1 u1 @100 [i1]\nwm 200\nr2 u1 @100 [i1]\nend 99", rules)
    assert got == ["r1[0] i1 click=0~ after ? @end", "r2[0] i1 click=0~ after ? @end"]


# -- 11. end of input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "rows"),
    [
        ("end", ["click=1+8~ positive after ? @end"]),
        ("end 104", ["click=1+8~ positive after 4 @end"]),  # not a provisional row, but this one
        ("end 105", ["click=0~ provisional after 5 @end", "click=1+8~ positive r1 after 8 @end"]),
        (
            "end 110",
            [
                "click=0~ provisional after 5 @end",
                "click=1+8~ positive r1 after 8 @end",
                "click=1+8 r2 @end",
            ],
        ),
    ],
)
def test_what_is_immature_at_the_end_is_dropped(end: str, rows: list[str]) -> None:
    text = f"r1 u1 @100 [i1 i2]\nclick u1 i1 r1 @108\n{end}"
    rows = [x.replace("after 8", "after 5") if end == "end 105" else x for x in rows]
    got = outcome(text, replace(DEFER, immature="drop"))
    of_i1 = [line.removeprefix("r1[0] i1 ") for line in got.lines() if "i1" in line]
    assert of_i1 == rows
    dropped = end in ("end", "end 104")
    assert got.counters["immature_dropped"] == (1 if dropped else 0)  # i2
    assert any("i2" in line for line in got.lines()) != dropped


def test_what_was_due_before_the_end_is_not_immature() -> None:
    got = outcome("r1 u1 @100 [i1]\nwm 105\nend 105", replace(ES_DFM, immature="drop"))
    assert got.lines() == ["r1[0] i1 click=0~ provisional after 5 @105"]
    assert got.counters["immature_dropped"] == 0


def test_an_unexposed_impression_is_not_also_immature() -> None:
    got = outcome("r1 u1 @100 [i1 i2]\nview u1 i1 r1 @101\nend", replace(SEEN, immature="drop"))
    assert got.rows == ()
    assert (got.counters["unexposed"], got.counters["immature_dropped"]) == (1, 1)


# -- what holds of all rows ------------------------------------------------------------------------


def drawn(key: Key, *, in_bounds: bool = False) -> Iterator[tuple[Timeline, Rules]]:
    """Under the policies, and under settings of every kind."""
    for rules in policies_for(key).values():
        yield from random_timelines(40, 8, key, rules, in_bounds=in_bounds)
    rng = random.Random(key)
    for _ in range(1000):
        rules = any_rules(rng.choice, key)
        yield build(rng.choice, rules, in_bounds=in_bounds), rules


def by_sample(rows: list[Row]) -> dict[tuple[str, str, int, int, str], list[Row]]:
    """In the order in which they were made. An id may be used again, under one time, too."""
    samples = defaultdict(list)
    for row in rows:
        name = (*row.sample, row.item_id)
        samples[name].append(row)
    return samples


def made(timeline: Timeline, rules: Rules) -> CoreRunner:
    runner = CoreRunner(rules)
    runner.run(timeline)
    return runner


def reused(timeline: Timeline) -> bool:
    """Whether two requests have one id: then the rows do not tell them apart."""
    ids = [event.request_id for event in timeline.events if isinstance(event, Request)]
    return len(set(ids)) < len(ids)


@pytest.mark.parametrize("key", KEYS)
def test_revisions_count_from_0_in_the_order_of_making(key: Key) -> None:
    for timeline, rules in drawn(key):
        if reused(timeline):
            continue
        everything = replace(rules, sampling=Sampling())
        for versions in by_sample(made(timeline, everything).rows).values():
            assert [row.revision for row in versions] == list(range(len(versions)))


@pytest.mark.parametrize("key", KEYS)
def test_sampling_takes_negatives_away_and_changes_nothing_else(key: Key) -> None:
    taken = 0
    for timeline, rules in drawn(key):
        everything = made(timeline, replace(rules, sampling=Sampling())).rows
        some = made(timeline, rules)
        same = [replace(row, sampling_rate=1.0) for row in some.rows]
        left = list(everything)
        for row in same:
            left.remove(row)  # fails when it is not there
        assert len(left) == some.counted["sampled_out"]
        told = [k for k in rules.windows if k != rules.exposure]
        for row in left:
            assert row.kind != "positive"
            assert all(row.delays[k] is None for k in told), row
        taken += len(left)
    assert taken > 500


@pytest.mark.parametrize("key", KEYS)
def test_every_impression_has_a_row_or_a_reason(key: Key) -> None:
    for timeline, rules in drawn(key):
        if reused(timeline):
            continue
        runner = made(timeline, replace(rules, sampling=Sampling()))
        count = runner.counted
        without = count["unexposed"] + count["immature_dropped"]
        assert count["impressions"] == len(by_sample(runner.rows)) + without
        if rules.exposure is None or rules.unexposed == "mark":
            assert count["unexposed"] == 0
        if rules.immature == "mark":
            assert count["immature_dropped"] == 0


@pytest.mark.parametrize("key", KEYS)
def test_final_rows_are_those_that_final_emit_says(key: Key) -> None:
    for timeline, rules in drawn(key):
        if reused(timeline):
            continue
        full = replace(rules, sampling=Sampling(), immature="mark")
        for versions in by_sample(made(timeline, full).rows).values():
            finals = [row for row in versions if row.kind == "final"]
            assert len(finals) <= 1
            assert finals in ([], versions[-1:])
            early = versions[: len(versions) - len(finals)]
            if rules.final_emit == "always" and rules.exposure is None:
                assert finals
            if rules.final_emit == "never":
                assert not (finals and early)
            if rules.final_emit == "if_changed" and finals and early:
                assert finals[0].labels != early[-1].labels
            for row in early:
                assert row.kind != "final"


@pytest.mark.parametrize("key", KEYS)
def test_the_last_row_has_the_labels_of_wait(key: Key) -> None:
    """With `final_emit` always or if_changed; within the bounds also when only changes are told."""
    compared = 0
    for in_bounds in (False, True):
        for timeline, rules in drawn(key, in_bounds=in_bounds):
            full = replace(rules, sampling=Sampling(), immature="mark", unexposed="mark")
            told = rules.emit_positives == "on_arrival" and in_bounds
            if reused(timeline) or (rules.final_emit == "never" and not told):
                continue
            wait = replace(
                full, first_emit_after=None, emit_positives="at_settle", final_emit="always"
            )
            last = {k: v[-1] for k, v in by_sample(made(timeline, full).rows).items()}
            truth = {k: v[-1] for k, v in by_sample(made(timeline, wait).rows).items()}
            assert last.keys() == truth.keys()
            for sample, row in last.items():
                assert row.labels == truth[sample].labels
                if rules.final_emit == "always":
                    assert row.delays == truth[sample].delays
                    assert row.made_at == truth[sample].made_at or END in (row.made_at,)
                compared += row.revision > 0
    assert compared > 1000
