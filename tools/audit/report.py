"""What an audit found, and how it is shown: accounts that close to zero, and what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.events import Origin


@dataclass(frozen=True)
class Finding:
    """Something that is unaccounted for.

    `what` it is (request, impression, action, record, row …), `name`s it, `where` it was read.
    """

    what: str
    name: str
    where: str
    why: str


@dataclass
class Account:
    """What came in, and where it went by reason; what is left over is the difference."""

    title: str
    came_in: int = 0
    went: Counter[str] = field(default_factory=Counter)

    @property
    def difference(self) -> int:
        """Records that came in and went nowhere; negative if more went than came in."""
        return self.came_in - sum(self.went.values())


@dataclass
class Report:
    """All accounts and findings. `notes`: sentences on what could not be looked at."""

    accounts: list[Account] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def closes(self) -> bool:
        """Whether there is no finding, and every account's difference is 0."""
        return not self.findings and not any(account.difference for account in self.accounts)

    def account(self, title: str) -> Account:
        """A new account, shown after the others."""
        account = Account(title)
        self.accounts.append(account)
        return account

    def find(self, what: str, name: str, where: str, why: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(what, name, where, why))

    def numbers(self) -> Mapping[str, Mapping[str, int]]:
        """By account: what came in (`in`), where it went, and the `difference`."""
        return {
            a.title: {"in": a.came_in, **a.went, "difference": a.difference} for a in self.accounts
        }


def place(origin: Origin) -> str:
    """`features/01.jsonl offset 120`, or `topic[2] offset 17`."""
    if origin.partition is not None:
        return f"{origin.name}[{origin.partition}] offset {origin.offset}"
    path = PurePath(origin.name)
    return f"{path.parent.name}/{path.name} offset {origin.offset}"


def show(report: Report, console: Console, most: int, *, running: bool) -> None:
    """Print the accounts, the first `most` findings, and what to do next."""
    for account in report.accounts:
        console.print(_table(account))
    for note in report.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if report.closes:
        console.print(Text("\nEvery record is accounted for.", style="green"))
        return
    if report.findings:
        _show_findings(report.findings[:most], console)
    rest = len(report.findings) - most
    if rest > 0:
        console.print(f"… and {rest:,} more; --show {len(report.findings)} lists all")
    console.print(Text(f"\n{len(report.findings):,} unaccounted for.", style="red"))
    if running:
        console.print(
            "The input has no end, and the files of a checkpoint do not appear all at once: run"
            " this again; what is named twice is missing.",
            soft_wrap=True,
        )
    else:
        console.print(
            "Was the output made in one run, to its end, by this configuration from these sources?"
            " If so, please report what is named above (docs/audit.md).",
            soft_wrap=True,
        )


def _table(account: Account) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    table.title = Text(f"\n{account.title}", style="bold")
    for justify in ("left", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True, min_width=12)
    table.columns[2].min_width = 32
    table.show_header = False
    went = sorted(account.went.items()) or [("", 0)]
    for n, (reason, count) in enumerate(went):
        first = ("  came in", f"{account.came_in:,}") if n == 0 else ("", "")
        table.add_row(*first, reason, f"{count:,}" if reason else "")
    style = "red" if account.difference else "green"
    table.add_row("", "", Text("difference", style), Text(f"{account.difference:,}", style))
    return table


def _show_findings(findings: list[Finding], console: Console) -> None:
    """Two lines each, so that a long path or id can be copied whole."""
    console.print(Text("\nunaccounted for", style="bold red"))
    widest = max(cell_len(_printable(f.name)) for f in findings)
    for f in findings:
        # ids come from the input: nothing in them may move the cursor or be read as markup
        name = _printable(f.name)
        pad = " " * (widest - cell_len(name))
        line = Text(f"  {f.what:<12}  ").append(name, "bold")
        console.print(line.append(f"{pad}  {_printable(f.where)}"), soft_wrap=True)
        console.print(Text(f"  {'':<12}  {_printable(f.why)}", style="dim"), soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
