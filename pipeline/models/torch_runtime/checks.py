"""Checks of hyperparameters: each error names the owner, the key, what it got and what is allowed."""


def check_sizes(owner: str, **sizes: object) -> None:
    """Raise ValueError naming the first size that is not an integer of 1 or more."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{owner}: {name} is {size!r}; allowed are integers of 1 or more")


def check_widths(owner: str, *, of: str, **widths: object) -> None:
    """Raise ValueError naming the first argument that is not a list of widths, one for each `of`, such as a layer."""
    for name, given in widths.items():
        if not isinstance(given, list) or not given:
            raise ValueError(f"{owner}: {name} is {given!r}; allowed is a list with one width for each {of}")
        check_sizes(owner, **{f"{name}[{i}]": width for i, width in enumerate(given)})


def check_dropout(owner: str, dropout: object) -> None:
    """Raise ValueError where `dropout` is not a probability below 1."""
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"{owner}: dropout is {dropout!r}; allowed is 0 <= dropout < 1")
