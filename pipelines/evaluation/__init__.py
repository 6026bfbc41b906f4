"""Measuring a model on held-out hands, beside the mean hand on the very same ones."""
