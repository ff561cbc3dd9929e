"""What the scheduler (SLURM) knows of jobs, and nothing else: no submission, no run folders.

Every answer may be missing. A scheduler that is silent, half up or slow changes what is known,
never what is true: the run folder stays the truth.
"""
