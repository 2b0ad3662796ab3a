"""A process that is forked off the server is what one is that an interpreter starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests import zygote

pytestmark = pytest.mark.skipif(not zygote.FORKS, reason="processes are started as usual here")


def python(*words, **options):
    return zygote.run([sys.executable, *words], capture_output=True, text=True, **options)


def test_it_has_the_arguments_the_environment_and_the_folder_that_it_was_given(tmp_path):
    code = "import os, sys; print(sys.argv, os.environ, os.getcwd(), sys.path[0], input(), sep='\\n')"
    environment = {"PATH": os.environ["PATH"], "ONLY": "this"}
    done = python("-c", code, "a", cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (1, "")
    assert "EOFError" in done.stderr
    done = python("-c", code.replace("input()", "7"), "a", cwd=tmp_path, env=environment)
    assert done.stdout.splitlines() == ["['-c', 'a']", f"environ({environment})", str(tmp_path), "", "7"]


def test_it_has_imported_jax_and_started_no_thread_nor_backend():
    code = "import os, sys; print('jax' in sys.modules, os.listdir('/proc/self/task') == [str(os.getpid())])"
    assert python("-c", code).stdout == "True True\n"
    code = "import jax; print(len(jax.devices()))"
    flags = "--xla_force_host_platform_device_count=3"
    assert python("-c", code, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}).stdout == "3\n"


@pytest.mark.parametrize(
    ("code", "ends", "out", "said"),
    [
        ("print(1)", 0, "1\n", ""),
        ("import sys; print(1, end=''); sys.exit(3)", 3, "1", ""),
        ("raise SystemExit('why')", 1, "", "why\n"),
        ("import atexit; atexit.register(print, 'last'); 1 / 0", 1, "last\n", "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "", ""),
        ("raise KeyboardInterrupt", -signal.SIGINT, "", "KeyboardInterrupt"),
        ("import threading; threading.Timer(0.1, print, (2,)).start()", 0, "2\n", ""),
    ],
)
def test_it_ends_as_an_interpreter_does(code, ends, out, said):
    for run in (zygote.run, subprocess.run):
        done = run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (ends, out)
        assert said in done.stderr


def test_modules_and_scripts_are_run(tmp_path):
    (tmp_path / "own.py").write_text(
        "import sys\nif __name__ == '__main__':\n    print(sys.argv[1:], sys.path[0])"
    )
    assert python("-m", "own", "a", cwd=tmp_path).stdout == f"['a'] {tmp_path}\n"
    assert python(tmp_path / "own.py", "a").stdout == f"['a'] {tmp_path}\n"
    path = {**os.environ, "PYTHONPATH": "/first:/second"}
    assert python("-P", "-c", "import sys; print(sys.path[:2])", env=path).stdout == "['/first', '/second']\n"


def test_it_can_be_signalled_with_its_group_and_waited_for():
    words = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
    with zygote.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT


def test_what_it_starts_is_a_fork_too_and_other_programs_are_not():
    code = (
        "import subprocess, sys; own = len(sys.modules) // 2\n"
        "words = [sys.executable, '-u', '-c', f'import sys; print(len(sys.modules) > {own})']\n"
        "print(subprocess.check_output(words), subprocess.check_output(['echo', 'a']))"
    )
    assert python("-c", code).stdout == "b'True\\n' b'a\\n'\n"
