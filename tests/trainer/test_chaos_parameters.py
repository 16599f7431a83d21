"""That the comparison of `make chaos` for the trainer can fail: differences are planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from chaos.trainer_parameters import compare
from tests.trainer import runs
from trainer import checkpoint
from trainer.server.shard import ShardSnapshot
from trainer.server.shard_file import write_shard

#: A model with dense parameters, too.
DEEP = ("model.type=deepfm", "model.embedding=4", "model.hidden=[8]")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = runs.samples(tmp_path_factory.mktemp("samples"))
    runs.train_here(runs.configured(folder, folder / "model", *DEEP), stop_after=4)
    return folder / "model"


def newest(model: Path) -> Path:
    return Path(str(checkpoint.find(model / "checkpoints")[-1]))


def changed(model: Path, to: Path, change: Callable[[ShardSnapshot], None]) -> Path:
    """A copy of the newest checkpoint, whose shard was changed."""
    folder = shutil.copytree(newest(model), to / "step-000000000001")
    manifest = checkpoint.read_manifest(folder)
    (first,) = checkpoint.read_shards(folder, manifest)
    change(first)
    file = write_shard(folder, 0, first, manifest.spec)
    text = msgspec.json.encode(msgspec.structs.replace(manifest, shards=[file]))
    (folder / "manifest.json").write_bytes(text)
    return folder


def test_nothing_differs_from_itself(model: Path) -> None:
    found = compare(newest(model), newest(model), model / "serving", model / "serving")
    assert found["differing"] == []
    assert found["keys"] > 1_000
    assert found["samples"] == 4 * runs.BATCH


def change_one_bit(shard: ShardSnapshot) -> None:
    shard.tables[0].states[0].view(np.uint32)[5, 0] ^= 1


def forget_a_key(shard: ShardSnapshot) -> None:
    shard.tables[0] = shard.tables[0].take(np.arange(1, len(shard.tables[0])))


def have_a_key_twice(shard: ShardSnapshot) -> None:
    shard.tables[0] = shard.tables[0].take(np.append(np.arange(len(shard.tables[0])), 3))


def make_a_key_older(shard: ShardSnapshot) -> None:
    shard.tables[0].touched[7] -= 1


def change_the_dense_parameters(shard: ShardSnapshot) -> None:
    shard.dense[0][0] += 1


@pytest.mark.parametrize(
    "change",
    [
        change_one_bit,
        forget_a_key,
        have_a_key_twice,
        make_a_key_older,
        change_the_dense_parameters,
    ],
)
def test_a_planted_difference_is_found(
    model: Path, tmp_path: Path, change: Callable[[ShardSnapshot], None]
) -> None:
    one, other = newest(model), changed(model, tmp_path, change)
    assert len(compare(one, other)["differing"]) == 1
    assert len(compare(other, one)["differing"]) == 1


def test_less_that_was_learned_is_found(model: Path, tmp_path: Path) -> None:
    folder = changed(model, tmp_path, lambda shard: None)
    manifest = checkpoint.read_manifest(folder)
    session = {**manifest.session, "rows": manifest.session["rows"] - 1}
    text = msgspec.json.encode(msgspec.structs.replace(manifest, session=session))
    (folder / "manifest.json").write_bytes(text)
    assert compare(newest(model), folder)["differing"] == ["learned"]


def test_another_export_is_found(model: Path, tmp_path: Path) -> None:
    runs.train_here(runs.configured(model.parent, tmp_path / "other", *DEEP), stop_after=3)
    same = newest(model)
    found = compare(same, same, model / "serving", tmp_path / "other" / "serving")["differing"]
    assert found
    assert all(line.startswith("export: ") for line in found)
