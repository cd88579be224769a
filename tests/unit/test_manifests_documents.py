"""The text of a file to objects: documents, lines, YAML as Kubernetes' tools read it."""

from __future__ import annotations

import pytest

from netaccel.model.endpoint import Namespace
from netaccel.sources.documents import Fault, FileContent, Place, read_file

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n"


def labels_of(text: str) -> dict[str, str]:
    """The labels of a Namespace whose labels are the YAML given."""
    content = read_file(f"{NAMESPACE % 'a'}".replace("}", f", labels: {text}}}").encode(), "x.yaml")
    assert content.faults == ()
    (claim,) = content.claims
    assert isinstance(claim.object, Namespace), claim
    return dict(claim.object.labels)


def origins(content: FileContent) -> list[str]:
    return [f"{claim.place} {claim.key.name}" for claim in content.claims]


def test_documents_are_numbered_and_empty_ones_are_not() -> None:
    text = f"# licence\n---\n{NAMESPACE % 'a'}---\n# nothing\n--- # here\n{NAMESPACE % 'b'}---"
    assert origins(read_file(text.encode(), "x.yaml")) == ["x.yaml#1 a", "x.yaml#2 b"]


def test_items_of_a_list_have_a_place_of_their_own() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n"
    assert origins(read_file(text.encode(), "x.yaml")) == ["x.yaml#1 items[0] a"]


def test_one_broken_document_harms_only_itself() -> None:
    text = f"{NAMESPACE % 'a'}---\nkind: [\n---\n{NAMESPACE % 'b'}"
    content = read_file(text.encode(), "x.yaml")
    assert origins(content) == ["x.yaml#1 a", "x.yaml#3 b"]
    (fault,) = content.faults
    assert fault.place == Place("x.yaml", 2)
    assert not content.complete


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: b\nc: [1\nd: e\n", 3, "is not YAML"),
        ("a: b\n\tc: d\n", 2, "tab"),
        ("---\na: 1\n---\nkind: x\na: 1\na: 2\n", 6, "the key 'a' is given twice"),
        ("a: 1\nb: \x01\n", 2, "is not YAML"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: !!int x\n", 1, "is not YAML"),
        ("a: !!python/object:os.system {}\n", 1, "could not determine a constructor"),
        ("a: " + "[" * 100_000, 1, "is not YAML"),
        ("{? [a]: b}\n", 1, "is not YAML"),
    ],
)
def test_a_fault_names_its_line(text: str, line: int, reason: str) -> None:
    faults = [fault for fault in read_file(text.encode(), "x.yaml").faults if "YAML" in fault.reason]
    assert [(fault.path, reason in fault.reason) for fault in faults] == [(f"line {line}", True)]


def test_json_is_read_as_json_and_its_fault_names_its_line() -> None:
    good = b'{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}'
    assert origins(read_file(good, "x.json")) == ["x.json#1 a"]
    (fault,) = read_file(b'{"apiVersion": "v1",\n"kind": Namespace}', "x.json").faults
    assert fault.path == "line 2"


def test_a_file_may_be_empty_or_begin_with_a_byte_order_mark() -> None:
    for name in ("x.yaml", "x.json"):
        assert read_file(b"", name) == FileContent()
    assert origins(read_file(b"\xef\xbb\xbf" + (NAMESPACE % "a").encode(), "x.yaml")) == ["x.yaml#1 a"]


def test_a_file_that_is_not_utf_8() -> None:
    (fault,) = read_file(b"a: b\nc: \xff\n", "x.yaml").faults
    assert fault == Fault(Place("x.yaml", 0), "", "line 2 is not UTF-8: save the file as UTF-8")


def test_scalars_are_what_kubernetes_tools_read() -> None:
    found = labels_of("{date: 2026-01-31, time: 2026-01-31T12:00:00Z, ratio: 12:30, sign: =, merge: '<<'}")
    assert found == {
        "date": "2026-01-31",
        "time": "2026-01-31T12:00:00Z",
        "ratio": "12:30",
        "sign": "=",
        "merge": "<<",
    }


def test_anchors_and_merge_keys_work_and_may_override() -> None:
    text = (
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations: &base {x: '1', y: '2'}\n"
        "  labels: {<<: *base, y: '3'}\n"
    )
    (claim,) = read_file(text.encode(), "x.yaml").claims
    assert isinstance(claim.object, Namespace)
    assert claim.object.labels == (("x", "1"), ("y", "3"))


def test_directives_and_explicit_ends_are_understood() -> None:
    text = f"%YAML 1.1\n---\n{NAMESPACE % 'a'}...\n---\n{NAMESPACE % 'b'}...\n"
    assert origins(read_file(text.encode(), "x.yaml")) == ["x.yaml#1 a", "x.yaml#2 b"]


def test_an_unchanged_document_is_not_read_again() -> None:
    before = read_file(f"{NAMESPACE % 'a'}---\n{NAMESPACE % 'b'}".encode(), "x.yaml")
    after = read_file(f"{NAMESPACE % 'new'}---\n{NAMESPACE % 'b'}".encode(), "x.yaml", before)
    assert after.claims[1].object is before.claims[1].object
    assert origins(after) == ["x.yaml#1 new", "x.yaml#2 b"]


def test_the_line_of_a_fault_is_right_though_documents_before_it_change() -> None:
    bad = "---\nkind: [\n"
    before = read_file(f"{NAMESPACE % 'a'}{bad}".encode(), "x.yaml")
    after = read_file(f"{NAMESPACE % 'a'}\n\n{bad}".encode(), "x.yaml", before)
    lines = [int(content.faults[0].path.removeprefix("line ")) for content in (before, after)]
    assert lines[1] - lines[0] == 2
