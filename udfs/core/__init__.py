"""The join core: events, state and watermark in; decisions out. Pure: no Flink in here."""
