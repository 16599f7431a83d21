"""What several modules of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.kafka_broker import KafkaBroker


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A broker; a test that kills it starts it again."""
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker
