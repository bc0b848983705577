"""Training and tuning on Ray."""

from rayworks.extras import require_ml

require_ml()
