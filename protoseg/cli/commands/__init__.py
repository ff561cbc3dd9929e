"""The verbs of the command line, one module a subject; each returns its exit status."""
