"""From the rows of a moment to what is written: row kinds, sampling, packing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.actions import ActionKind
from schemas.events import RequestBody, unpack_front
from schemas.features import Feature, FeatureSchema
from schemas.sample_id import sample_ids
from udfs.core import wire
from udfs.core.emission import Emitted
from udfs.core.partitions import partition
from udfs.core.sampling import Sampling
from udfs.core.state_codec import unpack_body


class SampleWriter:
    """Makes `wire.SampleRows` under one configuration."""

    def __init__(
        self,
        schema: FeatureSchema,
        kinds: Sequence[ActionKind],
        exposure: str | None,
        sampling: Sampling,
    ) -> None:
        self._context = schema.scoped("context")
        self._columns = schema.scoped("item")
        self._pack = msgspec.msgpack.Encoder().encode
        # The names in the order in which a body of this schema has them.
        self._context_names = self._pack([f.name for f in self._context])
        self._column_names = self._pack([f.name for f in self._columns])
        # Kinds whose actions make a row a positive.
        self._telling = [i for i, kind in enumerate(kinds) if kind.name != exposure]
        self._sampling = sampling
        self._features = sampling.features

    def rows(self, emitted: Emitted) -> tuple[list[wire.SampleRows], int]:
        """The rows to write, and how many rows were sampled out.

        Raises ValueError if `emitted` is without its body.
        """
        request, body = emitted.request, emitted.body
        if body is None:
            raise ValueError(f"the body of request {request.request_id!r} is not loaded")
        front = unpack_front(body) if emitted.front is None else emitted.front
        if (
            bytes(front.context_names) != self._context_names
            or bytes(front.column_names) != self._column_names
        ):
            body = self._under_this_schema(unpack_body(body))
        if self._sampling.off and emitted.moment != "change":
            kind: wire.RowKind = "provisional" if emitted.moment == "first" else "final"
            return [self._of_kind(emitted, body, kind, None, emitted.positions)], 0

        n = len(request.items)
        positions = range(n) if emitted.positions is None else emitted.positions
        negative = self._negatives(emitted, n)
        rates = None if self._sampling.off else self._rates(emitted, body, negative)
        written = positions
        if rates is not None:
            ids = sample_ids(request.request_id, request.items)
            written = self._kept(positions, negative, ids, rates)
        by_kind: dict[wire.RowKind, list[int]] = {}
        for p in written:
            by_kind.setdefault(_row_kind(emitted, negative[p]), []).append(p)
        rows = [
            self._of_kind(emitted, body, kind, rates, None if len(ps) == n else ps)
            for kind, ps in by_kind.items()
        ]
        return rows, len(positions) - len(written)

    def pack(self, rows: wire.SampleRows) -> bytes:
        """The rows as one msgpack record, which `ExplodeSamples.java` makes rows of."""
        return self._pack(rows)

    def feature_values(self, packed: bytes) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """The features in a packed `RequestBody`, which may be of an older schema: context features
        by name, and item features by name with a list by position each. Missing ones are None.
        """
        context, columns = self._aligned(unpack_body(packed))
        return (
            {f.name: v for f, v in zip(self._context, context, strict=True)},
            {f.name: v for f, v in zip(self._columns, columns, strict=True)},
        )

    def _of_kind(
        self,
        emitted: Emitted,
        body: bytes,
        kind: wire.RowKind,
        rates: list[float] | None,
        positions: list[int] | None,
    ) -> wire.SampleRows:
        request = emitted.request
        return wire.SampleRows(
            request.request_id,
            request.event_time,
            *partition(request.event_time),
            len(request.items),
            body,
            emitted.kinds,
            kind,
            emitted.observed_ms,
            emitted.exposed,
            rates,
            emitted.versions,
            positions,
        )

    def _negatives(self, emitted: Emitted, n: int) -> list[bool]:
        negative = [True] * n
        for i in self._telling:
            delays = emitted.kinds[i].delays_ms
            if delays is not None:
                for p, delay in enumerate(delays):
                    if delay is not None:
                        negative[p] = False
        return negative

    def _rates(self, emitted: Emitted, body: bytes, negative: list[bool]) -> list[float]:
        context: dict[str, Any] = {}
        items: dict[str, list[Any]] = {}
        if self._features:
            context, items = self.feature_values(body)
        rates = []
        for p, is_negative in enumerate(negative):
            if not is_negative:
                rates.append(1.0)
                continue
            values = {
                name: context[name] if name in context else items[name][p]
                for name in self._features
            }
            exposed = None if emitted.exposed is None else emitted.exposed[p]
            rates.append(self._sampling.rate_of(values, exposed=exposed))
        return rates

    def _kept(
        self,
        positions: Sequence[int],
        negative: list[bool],
        ids: list[int],
        rates: list[float],
    ) -> list[int]:
        keeps = self._sampling.keeps
        return [p for p in positions if not negative[p] or keeps(ids[p], rates[p])]

    def _under_this_schema(self, body: RequestBody) -> bytes:
        context, columns = self._aligned(body)
        names = msgspec.Raw(self._context_names), msgspec.Raw(self._column_names)
        return self._pack(
            RequestBody(body.user_id, body.items, names[0], context, names[1], columns)
        )

    def _aligned(self, body: RequestBody) -> tuple[list[Any], list[list[Any]]]:
        """Context values and columns in the order of this schema.

        A feature that the request's own schema did not have is null.
        """
        nothing = [None] * len(body.items)
        return (
            _by_name(body.context_names, body.context, self._context, None),
            _by_name(body.column_names, body.columns, self._columns, nothing),
        )


def _row_kind(emitted: Emitted, negative: bool) -> wire.RowKind:
    if emitted.moment == "deadline":
        return "final"
    return "positive" if emitted.moment == "change" and not negative else "provisional"


def _by_name(
    names: msgspec.Raw, values: list[Any], wanted: Sequence[Feature], missing: Any
) -> list[Any]:
    have = dict(zip(msgspec.msgpack.decode(names), values, strict=True))
    return [have.get(feature.name, missing) for feature in wanted]
