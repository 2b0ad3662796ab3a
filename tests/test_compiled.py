"""What one process of pytest has compiled, the others have."""

from __future__ import annotations

from tests.compiled import OWN, SHARED, Compiled


def test_what_a_worker_compiled_others_take_over_and_nobody_writes_where_another_does():
    environment: dict[str, str] = {}
    controller, first, second = (Compiled(environment) for _ in range(3))
    try:
        assert len({controller.own, first.own, second.own, first.shared}) == 4
        assert environment == {OWN: str(second.own), SHARED: str(controller.shared)}
        (first.own / "a-cache").write_bytes(b"a")
        (second.own / "a-cache").write_bytes(b"the same program")
        (second.own / "b-cache").write_bytes(b"b")
        for one in (first, second, first):
            one.exchange()
        assert (first.own / "b-cache").read_bytes() == b"b"
        assert (second.own / "a-cache").read_bytes() == b"the same program"
    finally:
        for one in (second, first, controller):
            one.cleanup()
    assert not any(place.exists() for one in (first, second) for place in (one.own, one.shared))
