"""The built-in training loops. A loop is named by its import path."""
