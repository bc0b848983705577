"""Flows, one per file: typed parameters in, a composition of tasks, a result out. They name only tasks and parameters."""
