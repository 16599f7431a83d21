"""What a configuration comes to: the defaults that depend on other keys, and the model itself."""

from __future__ import annotations

from collections.abc import Mapping

from configuration.declaration import Declaration, Policy
from configuration.store_requests import ObjectStorageSection
from configuration.stores import Folder, folder
from schemas.actions import ActionKind
from trainer.config.columns import OWN_COLUMNS, encoding_of, slot_columns
from trainer.config.sections import Document, LossKind, SlotSection, StepsPer
from trainer.reading.ledger import Wanted
from trainer.spec import LOG_BUCKETS, Adam, ModelSpec, Segment, Slot, TableSpec

#: The slot, and the table's only row, that is in every sample.
BIAS = "bias"

#: The loss that learns from the rows of each emission policy.
LOSS_OF: Mapping[Policy, LossKind] = {
    "wait": "plain",
    "fake_negative": "fnw",
    "es_dfm": "es_dfm",
    "defer": "defer",
}
#: Of samples, when the configuration does not say it.
_MAX_IN_FLIGHT = 65_536


class TrainerConfig(Document, frozen=True, kw_only=True):
    """A checked configuration, and what the pipeline's file declares. Paths in it are absolute.

    A key that was left out is None in its section; the properties here say what that comes to.
    """

    declared: Declaration

    @property
    def folder(self) -> Folder:
        """It holds `samples/` and `late_actions/`. Raises ValueError for another kind of place."""
        return folder(self.samples.path or self.declared.output.path, self.store)

    @property
    def output_folder(self) -> Folder:
        """Where the run writes."""
        return folder(self.output.path, self.store)

    @property
    def store(self) -> ObjectStorageSection:
        """Where `s3://` is, for the samples and for what the trainer writes."""
        return self.object_storage or self.declared.object_storage

    @property
    def wanted(self) -> Wanted:
        """Which samples are read."""
        said = self.samples
        return Wanted(said.first, said.end, said.anew, said.table)

    @property
    def actions(self) -> tuple[ActionKind, ...]:
        """What is predicted, in the order of the model's outputs."""
        kinds = {kind.name: kind for kind in self.declared.kinds}
        if self.model.actions is not None:
            return tuple(kinds[name] for name in self.model.actions)
        exposure = self.declared.exposure_action
        return tuple(kind for name, kind in kinds.items() if name != exposure)

    @property
    def loss_type(self) -> LossKind:
        """The configured loss, or the one that fits the pipeline's policy."""
        return self.loss.type or LOSS_OF[self.declared.join.policy]

    @property
    def max_in_flight(self) -> int:
        """How many samples may be read and not learned yet."""
        least = self.train.workers * self.train.batch
        return self.train.max_in_flight or max(_MAX_IN_FLIGHT, least)

    @property
    def steps(self) -> StepsPer:
        """Per sample where that is possible, if the configuration does not say it."""
        possible = self.no_steps_per_sample is None
        return self.train.steps or ("sample" if possible else "batch")

    @property
    def no_steps_per_sample(self) -> str | None:
        """Why the model cannot make a step per sample (`models.by_sample`); None: it can."""
        if self.model.type == "deepfm":
            return (
                '"sample" would need a pass through the dense layers after every sample; set'
                ' "batch" for model.type = "deepfm"'
            )
        segments = [segment for table in self.spec.tables for segment in table.segments]
        if any(isinstance(segment.optimizer, Adam) for segment in segments):
            return (
                '"sample" adds up what workers have changed, and the moments of "adam" cannot be'
                ' added; set "batch", or "ftrl" or "adagrad"'
            )
        return None

    @property
    def spec(self) -> ModelSpec:
        """The model: slots with equal settings share a table, and the bias has one of its own."""
        heads = [kind.name for kind in self.actions]
        if self.loss_type in ("es_dfm", "defer"):
            heads += [f"dp:{name}" for name in heads]
        columns = slot_columns(self.declared)
        tables: dict[tuple[tuple[Segment, ...], int, int | None], int] = {}
        slots = []
        for name, slot in self.used_slots.items():
            column = slot.column or name
            expire = None if slot.expire_after is None else slot.expire_after // 1000
            settings = (self._segments(slot, len(heads)), slot.admit_after, expire)
            slots.append(
                Slot(
                    name,
                    column,
                    encoding_of(slot, columns[column]),
                    tables.setdefault(settings, len(tables)),
                    LOG_BUCKETS if slot.boundaries is None else tuple(slot.boundaries),
                    slot.log1p,
                    slot.scale,
                    slot.clip,
                )
            )
        specs = [TableSpec(f"t{n}", *settings) for settings, n in tables.items()]
        if self.model.bias:
            slots.append(Slot(BIAS, None, "value", len(specs)))
            linear = Segment("linear", len(heads), self.optimizer.linear)
            specs.append(TableSpec(f"t{len(specs)}", (linear,)))
        kind = self.model.type
        return ModelSpec(
            kind,
            tuple(heads),
            tuple(slots),
            tuple(specs),
            embedding=0 if kind == "lr" else self.model.embedding,
            hidden=tuple(self.model.hidden) if kind == "deepfm" else (),
            dense=self.optimizer.dense,
            seed=self.model.seed,
        )

    @property
    def used_slots(self) -> Mapping[str, SlotSection]:
        """Without any: the user, the item, the position, and each feature that is trained on."""
        if self.slots:
            return self.slots
        features = (f.name for f in self.declared.schema.features if f.role == "feature")
        return {name: SlotSection() for name in (*OWN_COLUMNS, *features)}

    def _segments(self, slot: SlotSection, heads: int) -> tuple[Segment, ...]:
        linear = Segment("linear", heads, slot.optimizer or self.optimizer.linear)
        if self.model.type == "lr":
            return (linear,)
        optimizer = slot.embedding_optimizer or self.optimizer.embedding
        embedding = Segment("embedding", self.model.embedding, optimizer, self.model.scale)
        return (linear, embedding)
