"""The free hand's source: anatomy, mesh, rig and pose space from a few tables of numbers, numpy and scipy only."""
