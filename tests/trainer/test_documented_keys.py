"""docs/trainer.md has every key of the trainer's configuration with its default, and no other."""

from __future__ import annotations

from dataclasses import replace

from tests.documented_keys import Documented, differences, real, tables
from trainer.config.sections import Document


def test_the_page_has_all_keys_with_their_defaults() -> None:
    documented = [key for _, keys in tables("trainer.md") for key in keys]
    keys = real(Document)
    assert len(keys) > 30
    assert differences(documented, keys) == []
    assert differences(documented[1:], keys) == ["samples.pipeline is not documented"]
    other = [replace(d, default="7") if d.key == "train.batch" else d for d in documented]
    assert len(differences(other, keys)) == 1
    assert len(differences([*documented, Documented("train.colour", "")], keys)) == 1
