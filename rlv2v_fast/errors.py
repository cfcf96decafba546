"""The exceptions for what a user can correct, and for what ends a command without a fault."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the argument or file, the rule it breaks and the value it had. The
    command line prints it and exits with status 2.
    """


class MediaWarning(UserWarning):
    """Something that a video holds is changed or left out.

    The message is one sentence, which the command line prints.
    """


class RunWarning(UserWarning):
    """Something in the folder of a run is damaged, and the run goes on without it.

    The message is one sentence, which the command line prints.
    """


class TrainingDivergedError(InputError):
    """A loss became NaN or infinite."""


class PipeClosedError(Exception):
    """Whoever reads standard output has closed it, as a player does when its window is closed. It is no fault."""
