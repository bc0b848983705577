"""rayworks: data to a served model, on Ray. Knows no flow and no task; importing it does nothing."""

__version__ = "0.1.0"
