"""Real data that ship with packages, for a first run and for the tests."""
