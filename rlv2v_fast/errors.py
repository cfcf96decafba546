"""The exceptions for what a user can correct."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the argument or file, the rule it breaks and the value it had. The
    command line prints it and exits with status 2.
    """


class TrainingDivergedError(InputError):
    """A loss became NaN or infinite."""
