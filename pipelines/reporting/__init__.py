"""The report page: reads what the other stages left, draws it, and writes one HTML file and the same for a forge."""
