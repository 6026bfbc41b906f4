"""What a training stage learns from, as a file: the parts of its mixture, their weights, checksums and labels."""
