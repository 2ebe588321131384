"""Label selectors, and pages that neither repeat nor skip."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openshell_files_gateway.simulation.core import listing
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

Key = tuple[str, str]

keys = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), unique=True, max_size=30).map(sorted)


def pages(items: list[Key], size: int) -> list[list[Key]]:
    found: list[list[Key]] = []
    token = ""
    while True:
        chosen, token = listing.page(items, lambda key: key, lambda _: 1, size=size, token=token)
        found.append(chosen)
        if not token:
            return found


@given(keys, st.integers(1, 10))
def test_pages_together_are_the_list(items: list[Key], size: int) -> None:
    found = pages(items, size)
    assert [key for page in found for key in page] == items
    assert all(len(page) == size for page in found[:-1])


@given(keys, keys, st.integers(1, 5))
def test_what_comes_and_goes_hides_nothing(before: list[Key], after: list[Key], size: int) -> None:
    """Entries that are there during both calls are given exactly once."""
    first, token = listing.page(before, lambda key: key, lambda _: 1, size=size, token="")
    if not token:
        return
    rest, _ = listing.page(after, lambda key: key, lambda _: 1, size=1000, token=token)
    stayed = [key for key in before if key in after]
    assert [key for key in first + rest if key in stayed] == stayed


@pytest.mark.parametrize(
    ("size", "given_"), [(0, listing.DEFAULT_PAGE_SIZE), (2000, listing.MAX_PAGE_SIZE), (7, 7)]
)
def test_sizes(size: int, given_: int) -> None:
    items = [("w", f"{number:05}") for number in range(1500)]
    chosen, token = listing.page(items, lambda key: key, lambda _: 1, size=size, token="")
    assert len(chosen) == given_
    assert token


def test_a_page_ends_before_a_client_refuses_it() -> None:
    """Also one that is too large by itself is given, alone; or nobody would get past it."""
    weights = {
        ("w", "a"): listing.MAX_PAGE_BYTES + 1,
        ("w", "b"): listing.MAX_PAGE_BYTES - 1,
        ("w", "c"): 1,
        ("w", "d"): 1,
    }
    found: list[list[str]] = []
    token = ""
    while True:
        chosen, token = listing.page(
            sorted(weights), lambda key: key, weights.__getitem__, size=0, token=token
        )
        found.append([name for _, name in chosen])
        if not token:
            break
    assert found == [["a"], ["b", "c"], ["d"]]


@pytest.mark.parametrize(
    "token",
    [
        "!",
        "é",
        base64.urlsafe_b64encode(b"[1, 2]").decode(),
        base64.urlsafe_b64encode(b'["only one"]').decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_tokens_that_this_method_never_gave(token: str) -> None:
    with pytest.raises(TransferError) as caught:
        listing.page([("w", "a")], lambda key: key, lambda _: 1, size=0, token=token)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert caught.value.field_violations[0].field == "page_token"


def test_a_negative_size() -> None:
    with pytest.raises(TransferError, match="page_size"):
        listing.page([("w", "a")], lambda key: key, lambda _: 1, size=-1, token="")


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("", {}),
        (" , ", {}),
        ("a=b", {"a": "b"}),
        (" a = b , c=d=e ,", {"a": "b", "c": "d=e"}),
        ("a=", {"a": ""}),
        ("a=b,a=b", {"a": "b"}),
    ],
)
def test_selectors(selector: str, wanted: dict[str, str]) -> None:
    assert listing.parse_selector(selector) == wanted


@pytest.mark.parametrize("selector", ["a", "=b", " =b", "a=b,c", "a=b,a=c"])
def test_selectors_that_select_nothing(selector: str) -> None:
    with pytest.raises(TransferError, match="label_selector"):
        listing.parse_selector(selector)


def test_all_labels_must_match() -> None:
    labels = {"a": "1", "b": "2"}
    assert listing.matches(labels, {})
    assert listing.matches(labels, {"a": "1", "b": "2"})
    assert not listing.matches(labels, {"a": "1", "b": "1"})
    assert not listing.matches(labels, {"c": ""})
