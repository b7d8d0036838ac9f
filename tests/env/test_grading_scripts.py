"""Script tasks: a whole program, one fresh job per case, standard input to standard output."""

from typing import Any

import pytest

from pedrl_env import Limits, Privileged, ScriptCase, Task, Verifier
from pedrl_env.grading_prepare import prepare
from pedrl_sandbox import JobLimits, ScriptJob, make_sandbox

LIMITS = Limits(cpu_s=1.0, wall_s=30.0, memory_mb=256, processes=4, output_bytes=1 << 16)


def make_task(cases: tuple[ScriptCase, ...], **fields: Any) -> Task:
    return Task("t/f", "Prose.", "", cases, Privileged(), "train", LIMITS, **fields)


SUM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"


def script(verifier: Verifier, program: str, *cases: ScriptCase) -> tuple[str, ...]:
    verdict = verifier.verify(make_task(cases), program)
    assert verdict.reward == float(set(verdict.results) == {"passed"})
    return verdict.results


def test_scripts(verifier: Verifier) -> None:
    cases = (ScriptCase("1 2\n3", "6"), ScriptCase("", "0\n", "exact"), ScriptCase("5", "6"))
    verdict = verifier.verify(make_task(cases), SUM)
    assert verdict.results == ("passed", "passed", "wrong answer")
    assert (verdict.status, verdict.detail) == ("failed", "test 3 of 3: wrong answer")
    assert verifier.verify(make_task(cases[:2]), SUM).reward == 1.0


def test_a_script_is_never_completed(verifier: Verifier) -> None:
    """Its prompt is prose."""
    task = Task("t/s", "Add.", "", (ScriptCase("1", "1"),), Privileged(), "train", LIMITS)
    assert verifier.verify(task, SUM).reward == 1.0


PROGRAMS = {
    "main": ("if __name__ == '__main__':\n    print(1)", "passed"),
    "input": ("print(input())", "passed"),
    "exit": ("print(1)\nexit()", "passed"),
    "sys.exit": ("import sys\nprint(1)\nsys.exit(0)", "passed"),
    "left open": ("file = open(1, 'w')\nfile.write('1')", "passed"),
    "buffer": ("import sys\nsys.stdout.buffer.write(b'1')", "passed"),
    "own stdout": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(1)",
        "passed",
    ),
    "at exit": ("import atexit\natexit.register(print, 1)", "passed"),
    "thread": (
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print(1))).start()",
        "passed",
    ),
    "recursion": (
        "import sys, threading\nsys.setrecursionlimit(10 ** 6)\n"
        "def f(n): return 1 if n == 0 else f(n - 1)\n"
        "threading.stack_size(1 << 26)\n"
        "t = threading.Thread(target=lambda: print(f(20000)))\nt.start()\nt.join()",
        "passed",
    ),
    "stderr": ("import sys\nprint(1)\nprint('more', file=sys.stderr)", "passed"),
    "open(0)": ("print(open(0).readline())", "passed"),
    "descriptor": ("import os\nos.write(1, os.read(0, 10))", "passed"),
    "seek": ("import sys\nsys.stdin.read()\nsys.stdin.seek(0)\nprint(input())", "passed"),
    "file": ("import os\nassert __file__ and os.listdir('.') == []\nprint(1)", "passed"),
    "exit 3": ("import sys\nprint(1)\nsys.exit(3)", "exit code 3"),
    "exit text": ("import sys\nprint(1)\nsys.exit('text')", "exit code 1"),
    "raises": ("print(1)\n{}[1]", "raised KeyError"),
    "own exception": ("class E(Exception): pass\nprint(1)\nraise E", "exit code 1"),
    "syntax": ("print(1", "raised SyntaxError"),
    "os._exit loses the buffer": ("import os\nprint(1)\nos._exit(0)", "wrong answer"),
    "killed": ("import os\nprint(1, flush=True)\nos.kill(os.getpid(), 15)", "failed"),
    "loop": ("print(1, flush=True)\nwhile True: pass", "timeout"),
    "memory": ("print(1)\nx = bytearray(1 << 30)", "oom"),
    "flood": ("while True: print(1)", "failed"),
    "stderr flood": ("import sys\nprint(1)\nwhile True: print(1, file=sys.stderr)", "failed"),
}


@pytest.mark.parametrize(("program", "status"), PROGRAMS.values(), ids=PROGRAMS)
def test_programs_run_as_in_an_interpreter(verifier: Verifier, program: str, status: str) -> None:
    assert script(verifier, program, ScriptCase("1", "1")) == (status,)


def test_a_declared_exit_code(verifier: Verifier) -> None:
    program = "import sys\nprint(1)\nsys.exit(int(input()))"
    cases = (ScriptCase("3", "1", exit_code=3), ScriptCase("0", "1", exit_code=3))
    assert script(verifier, program, *cases) == ("passed", "exit code 0")


def test_long_input_and_output(verifier: Verifier) -> None:
    text = "".join(f"{number}\n" for number in range(300_000))
    cases = (ScriptCase(text, "300000 44999850000"),)
    program = "import sys\nn = list(map(int, sys.stdin))\nprint(len(n), sum(n))"
    assert script(verifier, program, *cases) == ("passed",)
    limits = Limits(2.0, 30.0, 256, 4, 1 << 23)
    task = Task("t/s", "", "", (ScriptCase(text, text),), Privileged(), "train", limits)
    assert verifier.verify(task, "import sys\nprint(sys.stdin.read(), end='')").reward == 1.0


def test_one_fresh_job_per_case(verifier: Verifier) -> None:
    program = """
import os
print(os.listdir("."), os.listdir("/tmp"))
for name in ("left.txt", "/tmp/left.txt"): open(name, "w").close()
"""
    cases = (ScriptCase("", "['data.txt'] []"),) * 3
    task = make_task(cases, files={"data.txt": "x"})
    assert verifier.verify(task, program).results == ("passed",) * 3


def test_partial_output_survives_a_timeout() -> None:
    program = "import sys\nprint(1, flush=True)\nprint(2, file=sys.stderr)\nwhile True: pass"
    limits = JobLimits(cpu_s=0.3, wall_s=10.0, memory_mb=256)
    with make_sandbox("zygote") as sandbox:
        result = sandbox.run_batch([ScriptJob(program, "", limits)])[0]
    assert (result.status, result.stdout, result.output) == ("timeout", b"1\n", b"2\n")
    assert result.exit_code is None


def test_expected_text_never_enters_the_sandbox() -> None:
    from pedrl_env.grading import jobs
    from pedrl_sandbox.encoding import encode_job

    task = make_task((ScriptCase("INPUT", "EXPECTED"),))
    (job,) = jobs(task, SUM, prepare(task).calls)
    assert b"INPUT" in encode_job(job)
    assert b"EXPECTED" not in encode_job(job)
