"""Floods and loops: each is stopped by a limit of its own, and says by which."""

from pedrl_sandbox import Job, JobLimits
from pedrl_sandbox.attacks import Attack
from tests.adversarial.arena import Arena, each


@each("loops", "loops in C", "sleeping", "ignored signals")
def test_loops_end_as_timeouts(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("fork bombs")
def test_fork_bomb_ends(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("processes")
def test_processes_are_limited(arena: Arena, attack: Attack) -> None:
    assert arena.endures(attack).outcomes[0].value in arena.counts(3)  # with the job itself, four


@each("threads")
def test_threads_are_limited(arena: Arena, attack: Attack) -> None:
    assert arena.endures(attack).outcomes[0].value in arena.counts(3)


@each("memory floods")
def test_memory_ends_as_oom(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("shared memory")
def test_shared_memory_is_limited(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("memory floods by children")
def test_memory_of_children_is_limited(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("memory without an address")
def test_memory_without_an_address_is_refused(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("output floods")
def test_output_flood_is_cut(arena: Arena, attack: Attack) -> None:
    result = arena.endures(attack)
    assert result.detail == "output limit of 65536 bytes"
    assert len(result.output) == 65536


@each("reply floods")
def test_reply_flood_is_cut(arena: Arena, attack: Attack) -> None:
    result = arena.endures(attack)
    assert result.detail == "larger than the limit"
    assert len(result.outcomes) <= 1


@each("disk floods")
def test_disk_flood_fails(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("inode floods", "endless inode floods")
def test_folders_that_cannot_be_wiped_cost_a_new_sandbox(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("descriptor floods")
def test_descriptors_are_limited(arena: Arena, attack: Attack) -> None:
    arena.endures(attack)


@each("stack overflow")
def test_stack_overflow_is_a_failure(arena: Arena, attack: Attack) -> None:
    assert arena.endures(attack).detail == "died of signal 11"


def test_output_before_a_timeout_survives(arena: Arena) -> None:
    result = arena.run("def f():\n    print('so far')\n    while True: pass", cpu_s=0.3)
    assert result.status == "timeout"
    assert result.output == b"so far\n"


def test_answers_before_a_timeout_survive(arena: Arena) -> None:
    program = "def f(x):\n    while x == 2: pass\n    return x"
    job = Job(program, "f", ((0,), (1,), (2,), (3,)), JobLimits(cpu_s=0.3))
    result = arena.sandbox.run_batch([job])[0]
    assert result.status == "timeout"
    assert [item.value for item in result.outcomes] == [0, 1]
