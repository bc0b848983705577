"""One Prefect task a verb: a stage of the library with its policy. Names nothing but the library."""
