"""Prefect task runs on Ray."""
