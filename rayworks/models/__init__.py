"""What a trained model is, and how it is stored."""

from rayworks.extras import require_ml

require_ml()
