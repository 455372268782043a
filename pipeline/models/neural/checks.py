"""What modules and courses refuse, each in the words of what it is asked for."""


def check_sizes(net: str, **sizes: object) -> None:
    """Raises ValueError naming the first size that is no whole number from 1 on."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{net}: {name} is {size!r}; allowed are whole numbers from 1 on")


def check_widths(net: str, *, of: str, **widths: object) -> None:
    """Raises ValueError naming what is no list of one width or more; a width is `of` something, such as a layer."""
    for name, given in widths.items():
        if not isinstance(given, list) or not given:
            raise ValueError(f"{net}: {name} is {given!r}; allowed is a list of one width or more, one for a {of}")
        check_sizes(net, **{f"{name}[{i}]": width for i, width in enumerate(given)})


def check_dropout(net: str, dropout: object) -> None:
    """Raises ValueError where `dropout` is no share of units that leaves some."""
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"{net}: dropout is {dropout!r}; allowed is 0 <= dropout < 1")
