"""Scenes of several hands composed from single-hand samples (paper, section III-D)."""
