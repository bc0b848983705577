"""How good a model is, whether it is promoted, and the registry."""
