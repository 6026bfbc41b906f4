"""Shards behind a URL: fetched whole into a cache of limited size on this machine, compared with the manifest, read from there."""
