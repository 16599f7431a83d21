"""Which columns of a sample can be slots, and how each becomes keys."""

from __future__ import annotations

from collections.abc import Mapping

from configuration.declaration import Declaration
from schemas.features import FeatureType
from trainer.config.sections import SlotSection
from trainer.spec import Encoding

#: Columns of every sample that may be slots; the others follow from the label or name the row.
OWN_COLUMNS: Mapping[str, FeatureType] = {
    "user_id": FeatureType("string"),
    "item_id": FeatureType("string"),
    "position": FeatureType("int64"),
}


def slot_columns(declared: Declaration) -> dict[str, FeatureType]:
    """The columns of a sample that can be slots, by name.

    Features with `role = "meta"` are among them, although they are not trained on.
    """
    return {**OWN_COLUMNS, **{f.name: f.type for f in declared.schema.features}}


def encoding_of(slot: SlotSection, column: FeatureType) -> Encoding:
    """How a slot encodes the values of its column: as configured, or by the column's type."""
    if slot.encoding is not None:
        return slot.encoding
    return "buckets" if column.scalar in ("float32", "float64") else "category"
