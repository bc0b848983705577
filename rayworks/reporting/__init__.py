"""Records to pages, tables and figures for people. Pure."""

from rayworks.extras import require_ml

require_ml()
