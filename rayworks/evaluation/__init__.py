"""How good a model is, whether it is promoted, and the registry."""

from rayworks.extras import require_ml

require_ml()
