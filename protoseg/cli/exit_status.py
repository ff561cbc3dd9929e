"""Exit statuses of a verb. Wrong usage is a `protoseg.errors.UsageError`, whose status is 2."""

OK, FAILED = 0, 1
