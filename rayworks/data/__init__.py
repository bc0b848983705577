"""Raw files to a dataset: reading, typing, validation, features, splits and statistics."""

from rayworks.extras import require_ml

require_ml()
