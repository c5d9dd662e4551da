"""Errors that callers can act on. Every message says what was wrong and what to do about it."""

import errno

_OF_THE_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),  # no room, or no writing
    *(errno.EMFILE, errno.ENFILE),  # too many open files
    *(errno.ENOENT, errno.ENODEV, errno.ESTALE),  # a drive that is gone; EIO may be a bad sector
    errno.EACCES,
}


class FptError(Exception):
    """Base of all errors raised on purpose by this package."""


class InvalidInputError(FptError, ValueError):
    """An argument has the wrong shape, dtype, range, or holds NaN or infinity."""


class NoImageError(FptError, RuntimeError):
    """A prediction was asked for before any image was given."""


class CheckpointError(FptError):
    """A checkpoint is missing, damaged, foreign, or does not fit its configuration."""


class EngineError(FptError):
    """An engine cannot be built, loaded, trusted or run any further."""


def machine_trouble(error: BaseException) -> OSError | None:
    """Trouble of the machine, which may pass, behind an error; None: what was read is to blame."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OF_THE_MACHINE:
            return cause
        cause = cause.__cause__
    return None
