"""The log of a server, under the name `bert4keras.serving`."""

import logging

LOGGER = logging.getLogger("bert4keras.serving")


def log_failure(level: int, message: str, error: BaseException) -> None:
    """Log a message with the traceback of an error, which may be one that cannot be printed."""
    try:
        LOGGER.log(level, "%s", message, exc_info=error)
    except BaseException:  # raised by `str(error)`
        LOGGER.log(level, "%s, with a %s that cannot be printed", message, type(error).__name__)
