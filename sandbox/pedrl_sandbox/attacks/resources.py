"""Floods and loops: each is stopped by a limit of its own, and says by which."""

from dataclasses import replace
from typing import Final

from pedrl_sandbox.attacks.records import (
    LIMITS,
    Attack,
    Witness,
    ends,
    raises,
    returns,
    returns_where,
)

BRIEF: Final = replace(LIMITS, cpu_s=0.5, wall_s=2.0)
LONG: Final = replace(LIMITS, cpu_s=5.0)

FORK_BOMB = """
import os
def f():
    while True:
        try: os.fork()
        except OSError: pass
"""
FORK_COUNT = """
import os, time
def f():
    count = 0
    try:
        while count < 50:
            if os.fork() == 0:
                time.sleep(2); os._exit(0)
            count += 1
    except OSError:
        pass
    return count
"""
THREAD_COUNT = """
import threading, time
def f():
    count = 0
    try:
        while count < 50:
            threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
            count += 1
    except RuntimeError:
        pass
    return count
"""
MEMORY = "def f():\n    return len(bytearray(1 << 30))"
MEMORY_SLOWLY = "def f():\n    kept = []\n    while True: kept.append(bytearray(1 << 20))"
MEMORY_BY_CHILDREN = """
import os
def f():
    for _ in range(3):
        if os.fork() == 0: break
    kept = []
    while True: kept.append(bytearray(1 << 20))
"""
MEMORY_SHARED = """
import mmap
def f():
    kept = []
    while True:
        kept.append(mmap.mmap(-1, 1 << 22))
        kept[-1].write(bytes(1 << 22))
"""
MEMFD = """
import os
def f():
    try: os.memfd_create("x")
    except OSError: return []
    return ["memory that no limit counts"]
"""
CPU_LOOP = "def f():\n    while True: pass"
CPU_THREADS = """
import threading
def spin():
    while True: pass
def f():
    for _ in range(2): threading.Thread(target=spin).start()
    spin()
"""
CPU_IN_CHILDREN = """
import os
def f():
    for _ in range(2):
        if os.fork() == 0:
            while True: pass
    os.wait()
"""
IMPORT_LOOP = "while True: pass\ndef f(): pass"
RAISED_LIMITS = """
import resource
def f():
    for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
        try: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError): pass
    while True: pass
"""
CAUGHT_EVERYTHING = """
def f():
    while True:
        try:
            while True: pass
        except BaseException: pass
"""
SLEEP = "import time\ndef f():\n    time.sleep(1000)"
IGNORED_SIGNALS = """
import signal, time
def f():
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    while True:
        try: time.sleep(1000)
        except BaseException: pass
"""
BLOCKED_SIGNALS = """
import signal
def f():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True: pass
"""
CPU_IN_INT = "def f():\n    return len(str(10 ** 10 ** 8))"
CPU_IN_REGEX = "import re\ndef f():\n    return re.match(r'(a+)+$', 'a' * 60 + 'b')"
CPU_IN_SUM = "def f():\n    return sum(range(10 ** 12))"
SLEEP_IN_C = "import ctypes\ndef f():\n    ctypes.CDLL(None).sleep(1000)"
STDOUT = "def f():\n    while True: print('x' * 4096)"
STDERR = "import os\ndef f():\n    while True: os.write(2, b'x' * 4096)"
REPLIES = "import os\ndef f():\n    while True: os.write(3, b'[\"v\",1]\\n' * 500)"
ONE_FILE = """
def f():
    with open("big", "wb", buffering=0) as file:
        while True: file.write(bytes(1 << 20))
"""
MANY_FILES = """
def f():
    for number in range(10 ** 9):
        with open(f"file-{number}", "wb") as file: file.write(bytes(1 << 20))
"""
SPARSE_FILE = "def f():\n    with open('sparse', 'wb') as file: file.truncate(1 << 40)"
MANY_FOLDERS = """
import os
def f():
    for number in range(3000): os.mkdir(f"/tmp/folder-{number}")
    return "made"
"""
DEEP_FOLDERS = """
import os
def f():
    for number in range(200):
        os.mkdir("d"); os.chdir("d")
    return "made"
"""
CLOSED_FOLDERS = """
import os
def f():
    os.mkdir("closed"); open("closed/x", "w").close(); os.chmod("closed", 0)
    return "made"
"""
EMPTY_FILES = """
import os
def f():
    number = 0
    while True:
        os.close(os.open(f"empty-{number}", os.O_CREAT | os.O_WRONLY))
        number += 1
"""
LEFT = "import os\ndef f(): return os.listdir('/w') + os.listdir('/tmp')"
DESCRIPTORS = """
import os
def f():
    count = 0
    try:
        while True: os.dup(0); count += 1
    except OSError: return count
"""
DESCRIPTORS_IN_FLIGHT = """
import array, socket
def f():
    count, kept = 0, []
    try:
        while count < 10_000:
            kept.append(socket.socketpair())
            for _ in range(100):
                rights = array.array("i", [0] * 200)
                kept[-1][0].setblocking(False)
                kept[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                count += 200
    except OSError: pass
    return count
"""
DESCRIPTORS_LEFT = """
import os, socket
def f():
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [one.fileno(), other.fileno()] * 125)  # kept open by themselves
    os._exit(0)
"""
STACK = """
import sys
def f():
    sys.setrecursionlimit(10 ** 9)
    nested = []
    for _ in range(200_000): nested = [nested]
    return repr(nested)
"""


def _timeout(family: str, name: str, program: str) -> Attack:
    return Attack(family, name, program, ends("timeout", detail="limit of"), limits=BRIEF)


_EMPTY: Final = Witness(LEFT, returns([]))
_FULL: Final = raises("OSError")
# One counts itself, and two of ours, for the next job, may come only after the first of these.
_FEW: Final = returns_where(lambda count: 0 < count < LIMITS.processes + 2)

ATTACKS: Final = (
    Attack("fork bombs", "endless", FORK_BOMB, ends("timeout", "failed"), limits=BRIEF),
    Attack("processes", "endless", FORK_COUNT, _FEW),
    Attack("threads", "endless", THREAD_COUNT, _FEW, harmless=True),
    Attack("memory floods", "at once", MEMORY, ends("oom"), harmless=True),
    Attack("memory floods", "slowly", MEMORY_SLOWLY, ends("oom"), harmless=True),
    Attack("shared memory", "mmap", MEMORY_SHARED, raises("OSError")),
    Attack(
        "memory floods by children",
        "three",
        MEMORY_BY_CHILDREN,
        ends("oom", "failed", "timeout"),
        limits=replace(LIMITS, cpu_s=2.0, wall_s=5.0),
    ),
    Attack("memory without an address", "memfd", MEMFD, returns([]), harmless=True),
    _timeout("loops", "plain", CPU_LOOP),
    _timeout("loops", "threads", CPU_THREADS),
    _timeout("loops", "children", CPU_IN_CHILDREN),
    _timeout("loops", "at import", IMPORT_LOOP),
    _timeout("loops", "raised limits", RAISED_LIMITS),
    _timeout("loops", "caught everything", CAUGHT_EVERYTHING),
    _timeout("sleeping", "sleep", SLEEP),
    _timeout("ignored signals", "ignored", IGNORED_SIGNALS),
    _timeout("ignored signals", "blocked", BLOCKED_SIGNALS),
    _timeout("loops in C", "large int", CPU_IN_INT),
    _timeout("loops in C", "regex", CPU_IN_REGEX),
    _timeout("loops in C", "sum", CPU_IN_SUM),
    _timeout("loops in C", "sleep", SLEEP_IN_C),
    Attack("output floods", "stdout", STDOUT, ends("failed", detail="output"), limits=LONG),
    Attack("output floods", "stderr", STDERR, ends("failed", detail="output"), limits=LONG),
    Attack("reply floods", "answers", REPLIES, ends("malformed", detail="larger"), limits=LONG),
    Attack("disk floods", "one file", ONE_FILE, _FULL, limits=LONG),
    Attack("disk floods", "many files", MANY_FILES, _FULL, limits=LONG),
    Attack("disk floods", "sparse file", SPARSE_FILE, _FULL, harmless=True),
    Attack("inode floods", "folders", MANY_FOLDERS, returns("made"), limits=LONG, witness=_EMPTY),
    Attack("inode floods", "deep", DEEP_FOLDERS, returns("made"), limits=LONG, witness=_EMPTY),
    Attack("inode floods", "closed", CLOSED_FOLDERS, returns("made"), witness=_EMPTY),
    Attack(
        "endless inode floods",
        "empty files",
        EMPTY_FILES,
        lambda result: _FULL(result) or result.status in ("timeout", "oom"),
        limits=BRIEF,
        witness=_EMPTY,
    ),
    Attack(
        "descriptor floods", "copies", DESCRIPTORS, returns_where(lambda n: n < 64), harmless=True
    ),
    Attack(
        "descriptor floods", "in flight", DESCRIPTORS_IN_FLIGHT, returns_where(lambda n: n < 1000)
    ),
    Attack("descriptor floods", "left in flight", DESCRIPTORS_LEFT, ends("failed")),
    Attack("stack overflow", "repr", STACK, ends("failed", detail="signal 11"), limits=LONG),
)
