"""The log of a server, under the name `bert4keras.serving`."""

import logging

LOGGER = logging.getLogger("bert4keras.serving")


def log_failure(level: int, what: str, error: BaseException) -> None:
    """Note what failed, with the traceback of an error of which nothing is known."""
    try:
        LOGGER.log(level, "%s", what, exc_info=error)
    except BaseException:  # raised by the error when its text was asked for
        LOGGER.log(level, "%s, with a %s that cannot be printed", what, type(error).__name__)
