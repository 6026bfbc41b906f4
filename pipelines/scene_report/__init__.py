"""What a set of composed scenes looks like, for people: distributions of its hands, and a sheet of scenes with their labels drawn."""
