"""Models over HTTP on Ray Serve."""
