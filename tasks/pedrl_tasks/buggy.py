"""What the prompts of suites for program repair have in common: a buggy program stands first."""

from typing import Final

from pedrl_env.records import Task

BEHIND: Final = "\n\n\n# The "  # then "function above has a bug", or "program above"


def buggy_program(task: Task) -> str:
    """The program that a prompt asks to mend; a suite with such prompts has this as ``buggy``.

    `pedrl tasks validate` proves that it fails.
    """
    return f"{task.prompt.partition(BEHIND)[0]}\n"
