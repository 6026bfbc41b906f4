"""Datasets: the one record every adapter yields, and the adapters by name."""
