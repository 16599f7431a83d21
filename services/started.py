"""What runs from `start` to `stop`, and can be used in a `with`."""

from __future__ import annotations

from typing import TypeVar

_Service = TypeVar("_Service", bound="Started")


class Started:
    """A service. In a `with` it is started, and stopped at the end."""

    def start(self) -> None:
        """Start it, and return when it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it; what it has written stays."""
        raise NotImplementedError

    def __enter__(self: _Service) -> _Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
