"""What travels: events, the feature schema, the sample layout, codecs. Nothing of Flink here."""
