"""The ``el_*`` tasks."""
