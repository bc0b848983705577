"""Records to pages, tables and figures for people. Pure."""
