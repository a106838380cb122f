"""Capacity checks: enough codes for all sources, and enough sources for all members."""

from splits.errors import BadInput


def require_filled(n_sources: int, n_members: int, weight: int) -> None:
    """Refuse sources whose set bits are fewer than the members.

    Raises:
        BadInput: If some split would be empty, whatever the codes.
    """
    if n_sources * weight < n_members:
        raise BadInput(
            f"{n_sources} sources of weight {weight} cannot fill the splits of "
            f"{n_members} members. Use fewer members or more sources."
        )


def require_capacity(n_sources: int, capacity: int, formula: str) -> None:
    """Refuse more sources than there are codes.

    Raises:
        BadInput: If codes would have to repeat.
    """
    if n_sources > capacity:
        raise BadInput(
            f"More sources than codes: {n_sources} sources, but {formula} codes. Choose "
            "more members, or a design that lets sources share codes, such as "
            "'partition'."
        )


def half(n_members: int) -> int:
    """Half of the members.

    Raises:
        BadInput: If their number is odd.

    Examples:
        >>> half(16)
        8
    """
    if n_members % 2:
        raise BadInput(
            f"An odd member count, {n_members}, has no half: use an even one, or set "
            "splits.weight."
        )
    return n_members // 2


def chosen_weight(weight: int | None, n_members: int) -> int:
    """The weight that was asked for; half of the members by default.

    Raises:
        BadInput: If every member, or none, would see a source of this weight.

    Examples:
        >>> chosen_weight(None, 16), chosen_weight(3, 16)
        (8, 3)
    """
    weight = half(n_members) if weight is None else weight
    if not 0 < weight < n_members:
        raise BadInput(
            f"splits.weight is {weight}; with {n_members} members it can be 1 to "
            f"{n_members - 1}, so that members see each source and others do not."
        )
    return weight
