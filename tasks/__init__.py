"""Prefect tasks, one per verb: each names a stage of the library and its policy. They name only the library."""
