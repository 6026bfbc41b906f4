"""Runs beside one another: comparing revisions, and the paper's ablations as sets of `dvc exp run` overrides."""
