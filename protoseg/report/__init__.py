"""From records to tables: every number in one traces to a record; nothing here imports torch."""
