"""Builds one self-contained HTML page of a matrix from its records."""
