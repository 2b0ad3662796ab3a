"""The plugin's mesh of devices."""

from __future__ import annotations

from tests.testing.conftest import BUILT_IN
from tests.testing.test_fixtures import QUICK, run

pytest_plugins = ["pytester"]


def test_the_port_is_given_the_mesh_and_the_summary_says_so(checked):
    result = checked("--golden-mesh=data=1,model=1", "--golden-mode=forward")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["mesh     data=1,model=1 of 1 device (cpu)"])


def test_without_the_option_nothing_is_said_of_a_mesh(checked):
    result = checked("--golden-mode=forward")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("mesh *")


def test_a_mesh_that_cannot_be_made_is_one_error(checked):
    result = checked("--golden-mesh=data=4096")
    assert result.ret != 0
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*the mesh has more devices than there are", "*--mesh data=4096"])


def test_a_test_of_ones_own_may_name_a_mesh(inner, pytester):
    body = f"""
        import pytest
        from harness.errors import UsageError

        def test_it(check_golden):
            report = check_golden({BUILT_IN!r}, {QUICK}, mode="forward", mesh="model=1")
            assert report.environment["mesh"] == {{"model": 1}}

        def test_refused(check_golden):
            with pytest.raises(UsageError, match="not a mesh"):
                check_golden({BUILT_IN!r}, {QUICK}, mesh="model")
    """
    run(inner, pytester, body).assert_outcomes(passed=2)
