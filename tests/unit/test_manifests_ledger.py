"""Which file's version of an object counts, and what is told of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netaccel.model.endpoint import Namespace
from netaccel.model.event import Delete, Event, Forgive, ObjectKey, Reject, Upsert
from netaccel.model.snapshot import World
from netaccel.sources.documents import Claim, Fault, FileContent, Place
from netaccel.sources.ledger import Ledger

A, B = ObjectKey("Namespace", "", "a"), ObjectKey("Namespace", "", "b")


def content(file: str, *claims: tuple[str, str | None], broken: bool = False) -> FileContent:
    """A file of Namespaces (name, version); version None: it can't be used."""
    return FileContent(
        tuple(
            Claim(
                Place(file, number),
                ObjectKey("Namespace", "", name),
                None if version is None else Namespace(name, (("v", version),)),
                "metadata",
                "bad",
            )
            for number, (name, version) in enumerate(claims, 1)
        ),
        (Fault(Place(file, len(claims) + 1), "line 9", "not YAML"),) if broken else (),
    )


def kinds(events: tuple[Event, ...]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_what_is_unchanged_is_not_told_again() -> None:
    ledger = Ledger()
    assert kinds(ledger.update({"x": content("x", ("a", "1"))}, 0)) == ["Upsert"]
    assert ledger.update({"x": content("x", ("a", "1"))}, 0) == ()
    assert kinds(ledger.update({"x": content("x", ("b", "1"), ("a", "1"))}, 0)) == ["Upsert"]


def test_a_bad_version_leaves_the_last_good_one_and_its_mending_ends_the_rejection() -> None:
    ledger = Ledger()
    ledger.update({"x": content("x", ("a", "1"))}, 0)
    bad = Reject(A, "x#1", "metadata", "bad")
    assert ledger.update({"x": content("x", ("a", None))}, 0) == (bad,)
    assert ledger.update({"x": content("x", ("a", None))}, 0) == ()
    assert ledger.update({"x": content("x", ("a", "1"))}, 0) == (Forgive(A, "x#1"),)
    ledger.update({"x": content("x", ("a", None))}, 0)
    assert kinds(ledger.update({"x": content("x", ("a", "2"))}, 0)) == ["Upsert"]


def test_an_object_that_vanishes_while_it_is_rejected() -> None:
    ledger = Ledger()
    ledger.update({"x": content("x", ("a", "1"))}, 0)
    ledger.update({"x": content("x", ("a", None))}, 0)
    assert ledger.update({"x": None}, 7.0) == (Forgive(A, "x#1"), Delete(A, 7.0))


def test_a_file_that_breaks_goes_on_claiming_what_it_claimed() -> None:
    ledger = Ledger()
    ledger.update({"x": content("x", ("a", "1"), ("b", "1"))}, 0)
    broken = content("x", ("a", "2"), broken=True)
    assert kinds(ledger.update({"x": broken}, 0)) == ["Reject", "Upsert"]
    assert ledger.update({"x": broken}, 0) == ()
    assert ledger.update({"x": content("x", ("a", "2"))}, 0) == (Forgive(None, "x#2"), Delete(B, 0))


def test_a_file_that_breaks_does_not_hand_its_objects_to_another() -> None:
    ledger = Ledger()
    ledger.update({"x": content("x", ("a", "1")), "y": content("y", ("a", "2"))}, 0)
    assert kinds(ledger.update({"x": content("x", broken=True)}, 0)) == ["Reject"]


def test_of_two_files_the_first_counts_and_the_other_is_told_so() -> None:
    ledger = Ledger()
    events = ledger.update({"y": content("y", ("a", "2")), "x": content("x", ("a", "1"))}, 0)
    upsert, reject = events
    assert isinstance(upsert, Upsert)
    assert upsert.object == Namespace("a", (("v", "1"),))
    assert isinstance(reject, Reject)
    assert (reject.origin, reject.path) == ("y#1", "metadata.name")
    assert "x#1" in reject.reason
    # The first goes: the second takes its place, and its rejection ends with that.
    (upsert,) = ledger.update({"x": None}, 0)
    assert isinstance(upsert, Upsert)
    assert upsert.object == Namespace("a", (("v", "2"),))


def test_a_rejection_that_still_holds_is_told_again_after_an_upsert() -> None:
    ledger, world = Ledger(), World()
    world.apply_all(ledger.update({"x": content("x", ("a", "1")), "y": content("y", ("a", "2"))}, 0))
    events = ledger.update({"x": content("x", ("a", "3"))}, 0)
    assert kinds(events) == ["Upsert", "Reject"]
    world.apply_all(events)
    assert [one.origin for one in world.rejections()] == ["y#1"]


def test_an_object_that_moves_between_files_is_never_gone() -> None:
    ledger = Ledger()
    ledger.update({"x": content("x", ("a", "1"))}, 0)
    assert ledger.update({"x": None, "y": content("y", ("a", "1"))}, 0) == ()


STEPS = st.lists(
    st.tuples(
        st.sampled_from("xyz"),
        st.none()
        | st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["1", "2", None])), max_size=3),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(STEPS)
def test_a_history_ends_where_a_fresh_reading_begins(
    steps: list[tuple[str, list[tuple[str, str | None]] | None]],
) -> None:
    """Rejections are those of the files alone; objects too, but for last good versions."""
    ledger, world, files = Ledger(), World(), dict[str, FileContent]()
    for file, claims in steps:
        files.pop(file, None)
        if claims is not None:
            files[file] = content(file, *claims)
        world.apply_all(ledger.update({file: files.get(file)}, 0))
    fresh = World()
    fresh.apply_all(Ledger().update(files, 0))
    assert world.rejections() == fresh.rejections()
    claimed = {claim.key.name for one in files.values() for claim in one.claims}
    for name in "abc":
        if fresh.namespace(name) is not None:
            assert world.namespace(name) == fresh.namespace(name)
        elif name not in claimed:
            assert world.namespace(name) is None
