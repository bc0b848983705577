"""Models over HTTP on Ray Serve."""

from rayworks.extras import require_ml

require_ml()
