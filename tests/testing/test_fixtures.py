"""`golden` and `check_golden`, for people who write their own tests."""

from __future__ import annotations

import pytest

from tests.testing.conftest import BUILT_IN

pytest_plugins = ["pytester"]

QUICK = 'precision="float32", cases="digits"'


def run(inner, pytester, body, *args, golden="embedded"):
    pytester.makepyfile(body)
    return inner(*(("--golden", golden) if golden else ()), *args)


def test_the_golden_is_open_and_closed_afterwards(inner, pytester):
    body = """
        seen = []
        def test_open(golden):
            seen.append(golden)
            assert golden.tap("digits", "embed").shape[0] == 1
        def test_closed():
            import pytest
            with pytest.raises(Exception):
                seen[0].tap("digits", "embed")
    """
    run(inner, pytester, body).assert_outcomes(passed=2)


@pytest.mark.parametrize("fixture", ["golden", "check_golden"])
def test_without_a_golden_a_test_fails_with_a_hint_and_is_not_skipped(inner, pytester, fixture):
    result = run(inner, pytester, f"def test_it({fixture}): pass", golden=None)
    assert result.ret == 1
    result.assert_outcomes(errors=1)
    assert "no golden is configured" in result.stdout.str()
    assert "hint: pytest --golden=PATH" in result.stdout.str()


def test_a_missing_golden_fails_the_test_that_uses_it(inner, pytester):
    result = run(inner, pytester, "def test_it(golden): pass", golden="none.h5")
    result.assert_outcomes(errors=1)
    assert "none.h5" in result.stdout.str()


def test_the_golden_can_be_overridden_in_any_scope(inner, pytester):
    pytester.makeconftest("""
        import pytest
        from harness import embedded
        from harness.store import open_golden

        @pytest.fixture(scope="session")
        def golden():
            with open_golden(embedded.golden()) as opened:
                yield opened
    """)
    body = f"def test_it(check_golden): assert check_golden({BUILT_IN!r}, {QUICK}).verdict == 'match'"
    run(inner, pytester, body, golden=None).assert_outcomes(passed=1)


def test_a_matching_port_gives_its_report_however_it_is_given(inner, pytester, checkpoint):
    body = f"""
        import jax.numpy as jnp
        import pytest
        from pathlib import Path
        from harness.architecture import read_config
        from harness.run.decoder import Decoder

        weights = Path({str(checkpoint)!r})
        loaded = Decoder.load(weights, read_config(weights), jnp.dtype("float32"))

        @pytest.mark.parametrize("port", [{BUILT_IN!r}, Decoder, loaded, None])
        def test_it(check_golden, port):
            report = check_golden(port, {QUICK})
            assert report.verdict == "match"
            assert report.port == "harness.run.decoder:Decoder"
            assert {{r.case for r in report.results}} == {{"digits"}}
            assert {{r.precision for r in report.results}} == {{"float32"}}
    """
    run(inner, pytester, body, "--port", BUILT_IN, "-k", "test_it", "--golden-case", "hello").assert_outcomes(
        passed=4, deselected=2
    )


def test_a_diverging_port_raises_an_assertion_with_the_report(inner, pytester):
    body = f"""
        import pytest
        def test_caught(check_golden):
            with pytest.raises(AssertionError, match="introduced at"):
                check_golden({BUILT_IN!r}, {QUICK}, limit_rms=0.001)
        def test_not_caught(check_golden):
            check_golden({BUILT_IN!r}, {QUICK}, limit_rms=0.001)
    """
    result = run(inner, pytester, body)
    result.assert_outcomes(passed=1, failed=1)
    assert "introduced at" in result.stdout.str()


@pytest.mark.parametrize("how", [f"{QUICK}, limit_rms=0.001", "cases='zzz'", f"{QUICK}, weights='none'"])
def test_of_the_frames_the_line_of_the_test_alone_is_shown(inner, pytester, how):
    result = run(inner, pytester, f"def test_it(check_golden):\n    check_golden({BUILT_IN!r}, {how})")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "check_golden(" in text
    for file in ("fixtures.py", "items.py", "run/check.py", "preflight.py", "selecting.py"):
        assert file not in text


def test_a_broken_contract_raises_and_says_so(inner, pytester):
    body = f"def test_it(check_golden): check_golden('tests.run.ports:ForgetsProbs', {QUICK})"
    result = run(inner, pytester, body)
    result.assert_outcomes(failed=1)
    assert "taps could not be compared (missing)" in result.stdout.str()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("check_golden()", ("was given no port", "hint: check_golden(port)")),
        ("check_golden(42)", ("this is not a port",)),
        ("check_golden(dict)", ("this is not a port",)),
        ("check_golden(Loaded())", ("is already loaded has one dtype", "float64, float32")),
        (f"check_golden({BUILT_IN!r}, precision='float16')", ("unknown precision",)),
        (f"check_golden({BUILT_IN!r}, cases=['zzz'])", ("no case of the golden matches",)),
        (f"check_golden({BUILT_IN!r}, weights='none')", ("there is no checkpoint directory",)),
    ],
)
def test_what_cannot_be_checked_raises_with_a_hint(inner, pytester, call, words):
    body = f"""
        class Loaded:
            def forward(self, *args): raise AssertionError("not reached")
        def test_it(check_golden): {call}
    """
    result = run(inner, pytester, body)
    result.assert_outcomes(failed=1)
    for word in (*words, "hint: "):
        assert word in result.stdout.str()
