"""Packages for the FreiHAND and HO3D servers: packing, checking, and scoring at home as the servers do."""
