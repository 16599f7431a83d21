"""Writes the Python text of a function that picks values out of a record by their paths.

The text is plain: each object on the way to a value is looked up once, and only where it is an
object. A value that is not there is None. What a function must do with a value is a constant of its
module, such as a function that converts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from schemas.mapping.paths import Path, Step
from schemas.mapping.values import element

_EMPTY: dict[str, Any] = {}


class Code:
    """The text of one function `f(record, time)`.

    Within `loop` the variables `item` and `k`, its index, are there, too. What does not depend on
    them is looked up before the loop.
    """

    def __init__(self) -> None:
        self._names: dict[str, Any] = {"EMPTY": _EMPTY, "element": element}
        self._head: list[str] = []
        self._body: list[str] = []
        self._before: list[str] = []
        self._found: dict[tuple[bool | None, tuple[Step, ...]], str] = {}
        self._depth = self._depth_of_loop = 1
        self._in_loop = False
        self._numbers = 0

    def constant(self, value: Any) -> str:
        """The name of a value that the text can use."""
        name = self._new("c")
        self._names[name] = value
        return name

    def line(self, text: str) -> None:
        """Add a line at the present indent."""
        self._body.append("    " * self._depth + text)

    def name(self, expression: str) -> str:
        """A variable that has the value of an expression, from here on."""
        name = self._new("v")
        self.line(f"{name} = {expression}")
        return name

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines under a head such as `if x:`. What is looked up in it is not known after it."""
        self.line(head)
        self._depth += 1
        found = dict(self._found)
        try:
            yield
        finally:
            self._depth -= 1
            self._found = found

    @contextmanager
    def loop(self, items: str, *, counted: bool) -> Iterator[None]:
        """Lines for each of `items`, a variable with a list."""
        head = f"for k, item in enumerate({items}):" if counted else f"for item in {items}:"
        before, self._body = self._body, []
        self._depth_of_loop = self._depth
        self._in_loop, found = True, dict(self._found)
        with self.block(head):
            yield
        self._in_loop = False
        self._found = found
        loop, self._body = self._body, before
        self._body += self._before
        self._before = []
        self._body += loop

    def value(self, path: Path) -> str:
        """An expression for the value at a path."""
        return self._value(path.of_item, path.steps)

    def object(self, path: Path | None, *, of_item: bool) -> str:
        """A variable with the object at a path (None: the record or the item itself); an empty one
        where there is none.
        """
        if path is not None:
            return self._object(path.of_item, path.steps)
        return self._object(of_item, ())

    def array_beside(self, path: Path) -> str:
        """A variable with the array that a path with `[]` in it runs along."""
        return self._hoisted(path.steps[: path.steps.index(None)])

    def as_object(self, value: str) -> str:
        """A variable with a value, or an empty object if it is none."""
        name = self.name(value)
        self.line(f"if {name}.__class__ is not dict: {name} = EMPTY")
        return name

    def compiled(self, name: str) -> Any:
        """The function. `name`: for tracebacks."""
        text = "\n".join(["def f(record, time):", *self._body, ""])
        exec(compile(text, f"<mapping of {name}>", "exec"), self._names)
        return self._names["f"]

    def _new(self, letter: str) -> str:
        self._numbers += 1
        return f"{letter}{self._numbers}"

    def _value(self, of_item: bool, steps: Sequence[Step]) -> str:
        if not steps:
            return "item" if of_item else "record"
        *above, last = steps
        if isinstance(last, str):
            return f"{self._object(of_item, tuple(above))}.get({last!r})"
        if last is None:
            return f"element({self._hoisted(tuple(above))}, k)"
        return f"element({self._value(of_item, above)}, {last})"

    def _object(self, of_item: bool, steps: tuple[Step, ...]) -> str:
        if not steps and not of_item:
            return "record"
        key = (of_item, steps)
        if key not in self._found:
            if self._in_loop and not of_item and None not in steps:
                with self._outside():
                    self._found[key] = self.as_object(self._value(of_item, steps))
            else:
                self._found[key] = self.as_object(self._value(of_item, steps))
        return self._found[key]

    def _hoisted(self, steps: tuple[Step, ...]) -> str:
        """A variable, outside of the loop, with the value at a path of the record."""
        key = (None, steps)
        if key not in self._found:
            with self._outside():
                self._found[key] = self.name(self._value(False, steps))
        return self._found[key]

    @contextmanager
    def _outside(self) -> Iterator[None]:
        if not self._in_loop:
            yield
            return
        inside, self._body = self._body, self._before
        depth, self._depth, self._in_loop = self._depth, self._depth_of_loop, False
        yield
        self._before, self._body = self._body, inside
        self._depth, self._in_loop = depth, True
