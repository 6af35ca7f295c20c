"""Scorers for ``--scoring``."""
