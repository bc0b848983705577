"""The work itself, as plain functions that know nothing of Prefect. Each stage takes records and options, and returns records."""
