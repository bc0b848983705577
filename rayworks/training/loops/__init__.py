"""The training loops that ship with rayworks. A loop is named by its import path."""
