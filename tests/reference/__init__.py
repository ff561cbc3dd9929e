"""Implementations in float64 that are written from the formulas, to compare the harness with."""
