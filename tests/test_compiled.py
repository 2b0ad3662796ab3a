"""What one process of pytest has compiled, the others have, and so has what they start."""

from __future__ import annotations

from tests.compiled import OWN, SHARED, Compiled


def test_what_a_worker_compiled_others_have_and_nobody_writes_where_another_does():
    environment: dict[str, str] = {}
    controller, first, second = (Compiled(environment) for _ in range(3))
    try:
        assert len({controller.own, first.own, second.own, first.shared}) == 4
        assert environment == {OWN: str(second.own), SHARED: str(controller.shared)}
        first.put("a", b"a")
        second.put("a", b"the same program")
        assert first.get("a") == second.get("a") == b"a"
        assert first.get("b") is None
        (second.own / "b-cache").write_bytes(b"b")  # by a process that the second started
        second.exchange()
        assert first.get("b") == b"b"
        assert (second.own / "a-cache").read_bytes() == b"a"
        first.exchange()
        assert {file.name for file in first.own.iterdir()} == {"a-cache", "b-cache"}
    finally:
        for one in (second, first, controller):
            one.cleanup()
    assert not any(place.exists() for one in (first, second) for place in (one.own, one.shared))
