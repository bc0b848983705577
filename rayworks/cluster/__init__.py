"""Where Ray runs. Each kind has the same contract: ``acquire`` gives Ray to this process, ``release`` takes it back."""
