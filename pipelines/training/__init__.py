"""Training: the loop of both stages on one or many devices, what feeds it, its checkpoints, and what it tells people meanwhile."""
