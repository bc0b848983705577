"""Training and tuning on Ray."""
