"""Find a result or create it: fingerprints of what a result depends on."""

import hashlib


def digest(*facts: object) -> str:
    """A short fingerprint of ``facts``."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()
