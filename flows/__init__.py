"""Flows, one per file: typed parameters in, tasks composed, a result out. They name tasks and parameters only."""
