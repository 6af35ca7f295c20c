"""Loggers of what was decided, and why: at debug level, which is that of fairseq's commands (``LOGLEVEL=DEBUG``)."""

import logging
import os


def details_logger(name: str) -> logging.Logger:
    """The logger ``name``. Its level is not the root's, which modules of fairseq set to DEBUG."""
    logger = logging.getLogger(name)
    if logger.level == logging.NOTSET:
        logger.setLevel(os.environ.get("LOGLEVEL", "INFO").upper())
    return logger
