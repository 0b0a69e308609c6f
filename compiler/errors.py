"""Errors that a user sees: one sentence each, and the exit code of the command line."""


class UserError(Exception):
    """The user's mistake; the message says what is wrong and what to do."""

    exit_code = 2


class InfeasibleBudgetError(UserError):
    """No configuration fits; the message names the binding constraint and the nearest feasible one."""

    exit_code = 3
