"""Errors that callers can act on. Every message says what was wrong and what to do about it."""


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
