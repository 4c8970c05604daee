"""The two ways in which the suite itself says no."""


class UsageError(ValueError):
    """Wrong usage or input: the message names the argument, what was given and what is allowed. Exit code 2."""


class SuiteError(RuntimeError):
    """The suite could not finish its own work, which says nothing about the subject. Exit code 3."""
