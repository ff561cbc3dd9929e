"""Queries to SLURM about jobs and clusters, independent of submissions and run folders.

Every answer may be missing. The run folder decides the state of a run; SLURM only adds to it.
"""
