"""`python -m tools.advise_window` from end to end, over event files: the terminal and the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tools.advise_window.command import ANSWERED, WRONG, main
from tools.advise_window.terminal import WIDTH
from tools.generate.model import ACTIONS, Traffic
from tools.generate.traffic import generate


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generate(Traffic(requests=2_000, items=10, features=1, hours=6, seed=1), folder)
    return folder / "pipeline.toml"


def run(
    capsys: pytest.CaptureFixture[str], config: Path, *more: str, source: str = "events"
) -> tuple[int, str, str]:
    code = main(["--config", str(config), "--from", source, *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_terminal_says_window_interval_and_what_to_write(
    generated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, generated, "--target", "0.9")
    assert code == ANSWERED
    assert "the shortest window that has 90% of the labels" in out
    for model in ACTIONS:
        assert f"{model.kind}: what a wait gives, and costs" in out or "cannot tell" in out
    click = re.search(r'\[actions\.click\] window = "(\d+)s"', out)
    assert click
    truth = ACTIONS[0].delay.quantile(0.9)
    assert truth * 0.85 <= int(click[1]) <= truth * 1.3, "rounded up"
    for name in ("wait", "fake_negative", "es_dfm(", "defer("):
        assert name in out
    prose = ("  from ",)  # has paths, which are not cut
    assert all(len(line) <= WIDTH for line in out.splitlines() if not line.startswith(prose))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_but_itself(
    generated: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, generated, "--html", str(tmp_path / "page.html"))
    assert code == ANSWERED
    assert "the page is" in err
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(html)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(link.startswith("#") for link in page.links), "nothing is fetched"
    assert "@import" not in html
    assert page.tags.count("svg") == html.count("[actions.") + 1, "no plot without advice"
    assert "prefers-color-scheme: dark" in html
    assert "#01010" not in html, "every stand-in has become a colour of the page"
    assert re.findall(r"var\((--[a-z0-9-]+)\)", html)
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", html)):
        assert f"{variable}:" in html
    ids = re.findall(r'<clipPath id="([^"]+)"', html)
    assert len(ids) == len(set(ids)), "pictures do not share ids"


def test_the_same_data_give_the_same_page(
    generated: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        run(capsys, generated, "--html", str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_that_come_at_once_have_a_place_in_the_plot(
    generated: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    none = [f"--set=sources.{stream}.out_of_orderness=0s" for stream in ("features", "actions")]
    code, _, _ = run(capsys, generated, *none, "--html", str(tmp_path / "page.html"))
    assert code == ANSWERED
    assert "fake_negative" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_kind_that_is_hardly_seen_is_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(Traffic(requests=60, items=10, features=1, hours=2, seed=1), tmp_path)
    code, out, _ = run(capsys, tmp_path / "pipeline.toml", "--html", str(tmp_path / "page.html"))
    assert code == ANSWERED
    assert re.search(r"purchase: cannot tell: \d+ actions were seen, and 50 are needed", out)
    assert "Give more data for the kinds that were hardly seen" in out
    assert "cannot tell" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_missing_is_said_in_a_line(
    generated: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, generated, source="samples")
    assert (code, out) == (WRONG, "")
    assert "there are no samples yet" in err
    assert "--from events" in err
    code, _, err = run(capsys, tmp_path / "none.toml")
    assert code == WRONG
    assert "there is no such file" in err
    assert main(["--config", str(generated), "--target", "95"]) == 2
    assert "a share between 0 and 1" in capsys.readouterr().err
