"""The formats in which a record may come: JSON, Avro and Protocol Buffers.

Whatever the format is, a record is turned into the JSON text that says the same, and that text is
decoded and validated as `schemas.decoding` does it. So there is one set of rules and reasons. What
becomes of which type stands in docs/formats.md.
"""
