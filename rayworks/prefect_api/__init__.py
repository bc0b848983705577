"""The Prefect API: the embedded server, its address, and what a run shows there."""
