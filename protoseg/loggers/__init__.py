"""Loggers: send the values of a running training to files and services; see docs/loggers.md."""
