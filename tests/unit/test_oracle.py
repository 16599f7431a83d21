"""The oracle against timelines worked by hand, first of all those of docs/join-semantics.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.oracle import expected
from tests.timeline import Action, Rules, Timeline, concatenate, parse, render, shift

BY_REQUEST = Rules("request_id", {"click": 10_000}, {"click": "any"})
BY_USER = replace(BY_REQUEST, key="user_id")


def outcome(text: str, rules: Rules = BY_REQUEST) -> list[str]:
    """The lines of what the oracle expects, rows first."""
    return expected(parse(text), rules).lines()


# -- 1. match --------------------------------------------------------------------------------------


def test_the_timeline_of_section_1() -> None:
    got = outcome(
        """
        r1 u1 @100_000 [i1 i2 i3 i4]
        click u1 i1 r1 @100_000     # lower edge
        click u1 i2 r1 @110_000     # upper edge
        click u1 i3 r1 @110_001
        click u1 i4 r1 @99_999
        end 200_000
        """
    )
    assert got == [
        "r1[0] i1 click=1+0 @end",
        "r1[1] i2 click=1+10000 @end",
        "r1[2] i3 click=0 @end",
        "r1[3] i4 click=0 @end",
        "late r1[2] click i3 @110001 +10001 outside_window",
        "orphan_action click i4 @99999",
    ]


@pytest.mark.parametrize(
    ("time", "what"),
    [
        (99_996, "orphan_action click i1 @99996"),
        (99_997, "click=1-3"),
        (110_000, "click=1+10000"),
        (110_001, "outside_window"),
    ],
)
@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_skew_widens_the_lower_edge_only(time: int, what: str, rules: Rules) -> None:
    lines = outcome(
        f"r1 u1 @100000 [i1]\nclick u1 i1 r1 @{time}\nend 300000", replace(rules, skew=3)
    )
    assert any(what in line for line in lines)


def test_each_kind_has_its_own_window() -> None:
    rules = Rules("request_id", {"click": 10, "buy": 50}, {"click": "any", "buy": "any"})
    got = outcome(
        """
        r1 u1 @100 [i1 i2]
        click u1 i1 r1 @111
        buy   u1 i1 r1 @111
        buy   u1 i2 r1 @151         # outside its own window, which is the longest
        wm 150
        end 151
        """,
        rules,
    )
    assert got == [
        "r1[0] i1 click=0 buy=1+11 @150",
        "r1[1] i2 click=0 buy=0 @150",
        "late r1[0] click i1 @111 +11 outside_window",
        "late r1[1] buy i2 @151 +51 outside_window",
    ]


def test_an_item_shown_twice_has_its_actions_at_the_lowest_position() -> None:
    rules = replace(BY_REQUEST, labels={"click": "count"})
    got = outcome(
        """
        r1 u1 @100000 [i2 i1 i1]
        click u1 i1 r1 @100001 #a
        click u1 i1 r1 @100002 #b
        wm 110000
        click u1 i1 r1 @100003 #c
        end 110000
        """,
        rules,
    )
    assert got == [
        "r1[0] i2 click=0 @110000",
        "r1[1] i1 click=2+1 @110000",
        "r1[2] i1 click=0 @110000",
        "late r1[1] click i1 @100003 #c +3 after_settle",
    ]


# -- 2. key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["r1 first", "r2 first", "clicks first"])
def test_the_timeline_of_section_2(order: str) -> None:
    r1 = "r1 u1 @100_000 [i1]\n"
    r2 = "r2 u1 @104_000 [i1]\n"
    clicks = "click u1 i1 - @103_999\nclick u1 i1 - @104_000\nclick u1 i1 - @112_000\n"
    text = {
        "r1 first": r1 + r2 + clicks,
        "r2 first": r2 + r1 + clicks,
        "clicks first": clicks + r2 + r1,
    }[order]
    assert outcome(text + "end 130000", replace(BY_USER, labels={"click": "count"})) == [
        "r1[0] i1 click=1+3999 @end",
        "r2[0] i1 click=2+0 @end",
    ]


def test_at_equal_times_the_greater_request_id_takes_it() -> None:
    got = outcome(
        """
        r10 u1 @100000 [i1]
        r9  u1 @100000 [i1]         # by code points "r9" is the greater one
        click u1 i1 - @100005
        end 200000
        """,
        BY_USER,
    )
    assert got == ["r10[0] i1 click=0 @end", "r9[0] i1 click=1+5 @end"]


def test_only_requests_that_it_matches_compete() -> None:
    got = outcome(
        """
        r1 u1 @100000 [i1]
        r2 u1 @104000 [i2]          # another item
        r3 u2 @104000 [i1]          # another user
        r4 u1 @105001 [i1]          # after the action
        click u1 i1 r9 @105000      # the request id is ignored
        end 200000
        """,
        BY_USER,
    )
    assert [line for line in got if "click=1" in line] == ["r1[0] i1 click=1+5000 @end"]


def test_the_latest_within_skew_takes_it() -> None:
    text = "r1 u1 @100000 [i1]\nr2 u1 @104000 [i1]\nclick u1 i1 - @{}\nend 200000"
    rules = replace(BY_USER, skew=5)
    assert "r2[0] i1 click=1-5 @end" in outcome(text.format(103_995), rules)
    assert "r1[0] i1 click=1+3994 @end" in outcome(text.format(103_994), rules)


def test_by_request_id_an_action_without_one_is_rejected_and_the_user_is_not_asked() -> None:
    assert outcome("r1 u1 @100000 [i1]\nclick u1 i1 - @100001\nend 200000") == [
        "r1[0] i1 click=0 @end",
        "missing_field click i1 @100001",
    ]
    assert outcome("r1 u1 @100000 [i1]\nclick u2 i1 r1 @100001\nend 200000") == [
        "r1[0] i1 click=1+1 @end"
    ]


# -- 3. settle, 4. order of arrival ----------------------------------------------------------------


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_a_request_settles_exactly_at_its_deadline(rules: Rules) -> None:
    rules = replace(rules, skew=2, lateness=30)  # D = 100 000 + 10 000 + 2 + 30
    text = "r1 u1 @100000 [i1]\nwm {}\nclick u1 i1 r1 @105000\nend 200000"
    assert outcome(text.format(110_031), rules) == ["r1[0] i1 click=1+5000 @end"]
    assert outcome(text.format(110_032), rules) == [
        "r1[0] i1 click=0 @110032",
        "late r1[0] click i1 @105000 +5000 after_settle",
    ]


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_an_early_action_is_held_for_its_request(rules: Rules) -> None:
    text = "click u1 i1 r1 @105000\nwm {}\nr1 u1 @100001 [i1]\nend 200000"
    assert outcome(text.format(110_000), rules) == ["r1[0] i1 click=1+4999 @end"]


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_a_held_action_is_an_orphan_at_its_claim_deadline(rules: Rules) -> None:
    """C = 105 000 + 2 S + W + L. A twin tells whether it is still held: then it is a duplicate."""
    rules = replace(rules, skew=3, lateness=7)
    text = "click u1 i1 r1 @105000\nwm {}\nclick u1 i1 r1 @105000\nend 200000"
    assert outcome(text.format(115_012), rules) == [
        "duplicate_action click i1 @105000",
        "orphan_action click i1 @105000",
    ]
    assert outcome(text.format(115_013), rules) == ["orphan_action click i1 @105000"] * 2


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_a_request_behind_its_deadline_is_rejected(rules: Rules) -> None:
    text = "wm {}\nr1 u1 @100000 [i1]\nend 200000"
    assert outcome(text.format(109_999), rules) == ["r1[0] i1 click=0 @end"]
    assert outcome(text.format(110_000), rules) == ["late_request r1 u1 @100000 [i1]"]


def test_the_actions_of_a_late_request_are_orphans() -> None:
    got = outcome("click u1 i1 r1 @105000\nwm 110000\nr1 u1 @100000 [i1]\nend 200000")
    assert got == ["orphan_action click i1 @105000", "late_request r1 u1 @100000 [i1]"]


def test_a_later_request_that_is_not_known_when_the_other_settles_comes_too_late() -> None:
    """Beyond the bounds: r2 is behind the watermark, though not behind its deadline."""
    got = outcome(
        """
        r1 u1 @100000 [i1]
        click u1 i1 - @105000
        wm 110000
        r2 u1 @104000 [i1]
        click u1 i1 - @105001
        end 200000
        """,
        BY_USER,
    )
    assert got == ["r1[0] i1 click=1+5000 @110000", "r2[0] i1 click=1+1001 @end"]


def test_one_watermark_may_make_much_due_and_takes_it_in_the_order_of_time() -> None:
    """r1's tombstone is long gone at the watermark, but it was there when the click was due."""
    got = outcome(
        """
        r1 u1 @100000 [i1]
        click u1 i1 - @115000
        wm 500000
        r1 u1 @499999 [i1]          # the name is free again
        end 500001
        """,
        BY_USER,
    )
    assert got == [
        "r1[0] i1 click=0 @500000",
        "r1[0] i1 click=0~ after 2 @end",
        "late r1[0] click i1 @115000 +15000 outside_window",
    ]


# -- 5. late actions -------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_the_timeline_of_section_5(rules: Rules) -> None:
    got = outcome(
        """
        r1 u1 @100_000 [i1 i2 i3]
        wm 110_000
        click u1 i1 r1 @105_000     # after_settle
        click u1 i2 r1 @115_000     # outside_window
        click u1 i3 r1 @120_001     # beyond t_r + H
        wm 130_000                  # the tombstone goes
        click u1 i2 r1 @105_000
        end 200_000
        """,
        rules,
    )
    assert got == [
        "r1[0] i1 click=0 @110000",
        "r1[1] i2 click=0 @110000",
        "r1[2] i3 click=0 @110000",
        "late r1[0] click i1 @105000 +5000 after_settle",
        "late r1[1] click i2 @115000 +15000 outside_window",
        "orphan_action click i2 @105000",
        "orphan_action click i3 @120001",
    ]


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
@pytest.mark.parametrize("wm", [None, 110_000])
@pytest.mark.parametrize(("time", "late"), [(120_000, True), (120_001, False)])
def test_the_horizon_has_an_edge(rules: Rules, wm: int | None, time: int, late: bool) -> None:
    watermark = "" if wm is None else f"wm {wm}"
    got = outcome(f"r1 u1 @100000 [i1]\n{watermark}\nclick u1 i1 r1 @{time}\nend 200000", rules)
    assert got[1:] == [
        f"late r1[0] click i1 @{time} +{time - 100000} outside_window"
        if late
        else f"orphan_action click i1 @{time}"
    ]


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_a_tombstone_goes_exactly_at_its_time(rules: Rules) -> None:
    rules = replace(rules, skew=2, lateness=30, horizon=500)  # X = 110 032 + 500 + 2
    text = "r1 u1 @100000 [i1]\nwm {}\nclick u1 i1 r1 @99998\nend 200000"
    assert outcome(text.format(110_533), rules) == [
        "r1[0] i1 click=0 @110533",
        "late r1[0] click i1 @99998 -2 after_settle",
    ]
    assert outcome(text.format(110_534), rules)[1:] == ["orphan_action click i1 @99998"]


@pytest.mark.parametrize(
    ("time", "line"),
    [
        (103_989, "late r1[0] click i1 @103989 +3989 after_settle"),  # r2 is ahead by more than S
        (103_990, "late r2[0] click i1 @103990 -10 after_settle"),
        (110_001, "late r2[0] click i1 @110001 +6001 after_settle"),
        (114_001, "late r2[0] click i1 @114001 +10001 outside_window"),
        (124_000, "late r2[0] click i1 @124000 +20000 outside_window"),
        (124_001, "orphan_action click i1 @124001"),
    ],
)
def test_by_user_the_latest_request_that_can_names_a_late_action(time: int, line: str) -> None:
    """`after_settle` needs no precedence of its own: it is never the earlier request's alone."""
    text = "r1 u1 @100000 [i1]\nr2 u1 @104000 [i1]\nr3 u1 @104005 [i2]\nwm 114015\n"
    got = outcome(text + f"click u1 i1 - @{time}\nend 300000", replace(BY_USER, skew=10))
    assert got[3:] == [line]


def test_by_user_a_late_action_waits_for_requests_that_may_claim_it() -> None:
    got = outcome(
        """
        r1 u1 @100000 [i1]
        wm 110000
        click u1 i1 - @115000       # outside of r1's window
        wm 114999
        r2 u1 @105000 [i1]          # just in time, and it matches
        wm 115000
        end 115000
        """,
        BY_USER,
    )
    assert got == ["r1[0] i1 click=0 @110000", "r2[0] i1 click=1+10000 @115000"]


def test_by_request_id_a_late_action_is_decided_when_its_request_settles() -> None:
    """A twin with a lesser time would replace a held action, but not one that is written."""
    got = outcome(
        """
        r1 u1 @100000 [i1]
        click u1 i1 r1 @110001 #e1
        wm 110000
        click u1 i1 r1 @105000 #e1
        end 200000
        """
    )
    assert got[1:] == [
        "late r1[0] click i1 @110001 #e1 +10001 outside_window",
        "duplicate_action click i1 @105000 #e1",
    ]


# -- 6. duplicates ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
@pytest.mark.parametrize(
    ("wm", "what"),
    [
        (109_999, "duplicate_request"),  # pending
        (129_999, "duplicate_request"),  # tombstoned; looked at before lateness
        (130_000, "late_request"),  # forgotten
    ],
)
def test_a_second_request(rules: Rules, wm: int, what: str) -> None:
    got = outcome(f"r1 u1 @100000 [i1]\nwm {wm}\nr1 u1 @100000 [i2]\nend 200000", rules)
    assert got[1:] == [f"{what} r1 u1 @100000 [i2]"]


def test_the_same_request_id_under_another_user_is_another_request_by_user() -> None:
    text = "r1 u1 @100000 [i1]\nr1 u2 @100000 [i1]\nend 200000"
    assert outcome(text, BY_USER) == ["r1[0] i1 click=0 @end"] * 2
    assert outcome(text)[1:] == ["duplicate_request r1 u2 @100000 [i1]"]


def test_a_rejected_request_does_not_make_others_duplicates() -> None:
    got = outcome("wm 110000\nr1 u1 @100000 [i1]\nr1 u1 @100001 [i1]\nend 200000")
    assert got == ["r1[0] i1 click=0 @end", "late_request r1 u1 @100000 [i1]"]


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
@pytest.mark.parametrize("wm", [0, 110_000, 129_999])
def test_a_repeated_action_counts_once(rules: Rules, wm: int) -> None:
    rules = replace(rules, labels={"click": "count"})
    got = outcome(
        f"r1 u1 @100000 [i1]\nclick u1 i1 r1 @105000\nwm {wm}\nclick u1 i1 r1 @105000\nend 200000",
        rules,
    )
    settled = "end" if wm == 0 else str(wm)
    assert got == [f"r1[0] i1 click=1+5000 @{settled}", "duplicate_action click i1 @105000"]


def test_with_the_tombstone_goes_the_memory_of_its_actions() -> None:
    text = "r1 u1 @100000 [i1]\nclick u1 i1 r1 @105000\nwm 130000\nclick u1 i1 r1 @105000\nend 2e5"
    assert outcome(text.replace("2e5", "200000"))[1:] == ["orphan_action click i1 @105000"]


@pytest.mark.parametrize("rules", [BY_REQUEST, BY_USER])
def test_a_late_action_is_written_once(rules: Rules) -> None:
    got = outcome(
        """
        r1 u1 @100000 [i1]
        wm 110000
        click u1 i1 r1 @105000
        click u1 i1 r1 @105000
        wm 129999
        click u1 i1 r1 @105000
        wm 130000
        click u1 i1 r1 @105000
        end 200000
        """,
        rules,
    )
    assert got[1:] == [
        "late r1[0] click i1 @105000 +5000 after_settle",
        "duplicate_action click i1 @105000",
        "duplicate_action click i1 @105000",
        "orphan_action click i1 @105000",
    ]


def test_identity_is_the_event_id_and_without_one_all_but_the_value() -> None:
    rules = replace(BY_REQUEST, labels={"click": "sum"})
    request = "r1 u1 @100000 [i1 i2]\n"
    same = [
        "click u1 i1 r1 @100001 #e =1\nclick u1 i1 r1 @100001 #e =1\n",
        "click u1 i1 r1 @100001 #e =1\nclick u2 i2 r1 @100009 #e =3\n",
        "click u1 i1 r1 @100001 =1\nclick u1 i1 r1 @100001 =3\n",
    ]
    others = [
        "click u1 i1 r1 @100001 #e =1\nclick u1 i1 r1 @100001 #f =1\n",
        "click u1 i1 r1 @100001 =1\nclick u1 i1 r1 @100002 =1\n",
        "click u1 i1 r1 @100001 =1\nclick u2 i1 r1 @100001 =1\n",
        "click u1 i1 r1 @100001 #u1 =1\nclick u1 i1 r1 @100001 =1\n",
    ]
    for text in same:
        for order in (text, "\n".join(reversed(text.splitlines()))):
            got = outcome(request + order + "\nend 200000", rules)
            assert got[0] == "r1[0] i1 click=1+1 @end"
            assert sum("duplicate_action" in line for line in got) == 1
    for text in others:
        assert outcome(request + text + "end 200000", rules)[0] == "r1[0] i1 click=2+1 @end"


def test_the_least_twin_stays_even_if_it_is_of_no_use() -> None:
    got = outcome(
        """
        r1 u1 @100000 [i1]
        click u1 i1 r1 @100001 #e
        click u1 i1 r1 @99999 #e
        end 200000
        """
    )
    assert got == [
        "r1[0] i1 click=0 @end",
        "duplicate_action click i1 @100001 #e",
        "orphan_action click i1 @99999 #e",
    ]


# -- 7. labels -------------------------------------------------------------------------------------


def test_every_aggregate() -> None:
    kinds = ("any", "count", "sum", "max", "last")
    rules = Rules("request_id", dict.fromkeys(kinds, 10_000), {k: k for k in kinds})  # type: ignore[misc]
    values = {100_003: 0.1, 100_001: 0.7, 100_002: -2.0}
    lines = [f"{k} u1 i1 r1 @{t} ={v}" for t, v in values.items() for k in kinds]
    lines += [f"last u1 i1 r1 @100003 #{k} ={v}" for k, v in (("a", 0.05), ("b", 0.3))]
    got = expected(parse("r1 u1 @100000 [i1 i2]\n" + "\n".join(lines) + "\nend 200000"), rules)
    one, none = got.rows
    assert one.labels == {
        "any": 1,
        "count": 3,
        "sum": -1.2,  # exact; 0.1 + 0.7 - 2.0 is not
        "max": 0.7,
        "last": 0.3,
    }
    assert one.delays == dict.fromkeys(kinds, 1)
    assert none.labels == {"any": 0, "count": 0, "sum": 0.0, "max": None, "last": None}
    assert none.delays == dict.fromkeys(kinds, None)
    assert isinstance(one.labels["sum"], float)
    assert isinstance(none.labels["sum"], float)


def test_a_sum_is_exactly_rounded() -> None:
    rules = replace(BY_REQUEST, labels={"click": "sum"})
    lines = [f"click u1 i1 r1 @100000 #{i} ={v}" for i, v in enumerate((1e16, 1.0, -1e16))]
    got = outcome("r1 u1 @100000 [i1]\n" + "\n".join(lines) + "\nend 200000", rules)
    assert got == ["r1[0] i1 click=1+0 @end"]


def test_a_value_that_is_needed_and_missing() -> None:
    rules = Rules("request_id", {"click": 9, "dwell": 9}, {"click": "count", "dwell": "max"})
    got = outcome("click u1 i1 r1 @5\ndwell u1 i1 r1 @5\nlike u1 i1 r1 @5\nend 90", rules)
    assert got == [
        "missing_value dwell i1 @5",
        "orphan_action click i1 @5",
        "unknown_action like i1 @5",
    ]


# -- 11. end of input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "line"),
    [
        ("end", "r1[0] i1 click=1+5~ buy=0~ after ? @end"),
        ("end 99_999", "r1[0] i1 click=1+5~ buy=0~ after ? @end"),
        ("end 100_000", "r1[0] i1 click=1+5~ buy=0~ after 0 @end"),
        ("end 109_999", "r1[0] i1 click=1+5~ buy=0~ after 9999 @end"),
        ("end 110_000", "r1[0] i1 click=1+5 buy=0~ after 10000 @end"),
        ("end 119_999", "r1[0] i1 click=1+5 buy=0~ after 19999 @end"),
        ("end 120_000", "r1[0] i1 click=1+5 buy=0 @end"),
        ("wm 120_000\nend 120_000", "r1[0] i1 click=1+5 buy=0 @120000"),
    ],
)
def test_what_the_end_makes_of_it(end: str, line: str) -> None:
    rules = Rules("request_id", {"click": 10_000, "buy": 20_000}, {"click": "any", "buy": "count"})
    text = "r1 u1 @100000 [i1 i2]\nclick u1 i1 r1 @100005\n" + end
    assert outcome(text, rules)[0] == line

    dropped = expected(parse(text), replace(rules, immature="drop"))
    assert len(dropped.rows) == (0 if "~" in line else 2)
    assert dropped.counters["immature_dropped"] == (2 if "~" in line else 0)
    assert dropped.counters["joined"] == 1  # conservation: it went to a row, which was dropped


def test_skew_and_lateness_do_not_matter_for_maturity() -> None:
    rules = replace(BY_REQUEST, skew=50, lateness=70)
    assert outcome("r1 u1 @100000 [i1]\nend 110000", rules) == ["r1[0] i1 click=0 @end"]


def test_everything_is_accounted_for() -> None:
    got = expected(
        parse(
            """
            r1 u1 @100000 [i1 i2]
            r1 u1 @100000 [i1 i2]
            r2 u1 @90000 [i1]
            click u1 i1 r1 @100001
            click u1 i1 r1 @100001
            click u1 i1 r1 @115000
            click u1 i1 r7 @100001
            wm 112000
            r3 u1 @102000 [i1]
            end 112000
            """
        ),
        BY_REQUEST,
    )
    assert got.counters == {
        "requests": 4,
        "settled": 2,
        "impressions": 3,
        "rows": 3,
        "sampled_out": 0,
        "unexposed": 0,
        "immature_dropped": 0,
        "actions": 4,
        "joined": 1,
        "late": 1,
        "rejected.duplicate_action": 1,
        "rejected.duplicate_request": 1,
        "rejected.late_request": 1,
        "rejected.orphan_action": 1,
    }


# -- the notation, and what cannot be --------------------------------------------------------------


def test_the_notation_reads_what_it_writes() -> None:
    text = "r1 u1 @100000 [i1 i2]\nclick u1 i1 - @-5 #e1 =3.5\nwm 110000\nend 120000"
    timeline = parse(text + "  # a remark\n\n# another")
    assert render(timeline) == text
    assert timeline.events[1] == Action("e1", "u1", "i1", None, "click", 3.5, -5)
    assert parse("wm 1\nend").progress is None
    for broken in ("r1 u1 @5 []", "click u1 i1 @5", "end 5\nwm 6", "wm x"):
        with pytest.raises(ValueError, match=r"line of a timeline|after the end"):
            parse(broken)


def test_impossible_timelines() -> None:
    with pytest.raises(ValueError, match="goes back"):
        expected(parse("wm 5\nwm 4\nend 9"), BY_REQUEST)
    with pytest.raises(ValueError, match="short of"):
        expected(parse("wm 5\nend 4"), BY_REQUEST)
    with pytest.raises(ValueError, match="same kinds"):
        Rules("user_id", {"click": 1}, {"buy": "any"})


def test_shifted_timelines_follow_each_other() -> None:
    one = parse("r1 u1 @100000 [i1]\nclick u1 i1 r1 @100001 #e\nwm 100001\nend 100001")
    both = concatenate([shift(one, 0, "a-"), shift(one, 50_000, "b-")])
    assert expected(both, BY_REQUEST).lines() == [
        "a-r1[0] i1 click=1+1 @150001",
        "b-r1[0] i1 click=1+1~ after 1 @end",
    ]
    assert concatenate([Timeline(())]) == Timeline(())
