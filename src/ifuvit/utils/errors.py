"""The one exception type for mistakes of the user."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line: the offending value, where it stands, and what to do. The command line prints it
    without a traceback and exits with status 2; every other exception is an internal fault and keeps its traceback.
    """


class LockedError(InputError):
    """Another process writes there."""


class UnreachableError(InputError):
    """A file of another machine cannot be read now: it may be whole, so that nobody must go on without it."""
