"""The same work done by Backstop and by what its users would take instead. See `bench.peers.__main__`."""
