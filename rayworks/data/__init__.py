"""Raw files to a dataset: reading, typing, validation, features, splits and statistics."""
