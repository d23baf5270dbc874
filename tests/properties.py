"""How many examples a property is tried with: a few at every change, twenty times as many in the nightly tier."""

from hypothesis import settings

from tests.tiers import count

_MORE = 20


def examples(number: int) -> settings:
    """Decorate a property with the number of its examples in the pr tier. The examples are the same in every run."""
    return settings(
        max_examples=count(pr=number, nightly=_MORE * number), deadline=None, derandomize=True
    )
