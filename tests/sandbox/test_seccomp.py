"""The filter as a program: simulated here, tried for real in tests/adversarial/test_kernel.py."""

import struct

import pytest

from pedrl_sandbox import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMN = {"x86_64": 0, "aarch64": 1}


def run(
    machine: str, number: int, arg0: int = 0, arch: int | None = None, data: bytes = b""
) -> int:
    """Interpret the filter, or another, for one call, as the kernel does."""
    data = data or seccomp.program(machine)
    code = [struct.unpack_from("<HBBI", data, at) for at in range(0, len(data), 8)]
    words = {0: number, 4: ARCH[machine] if arch is None else arch, 16: arg0 & 0xFFFFFFFF}
    at = accumulator = 0
    while True:
        op, true, false, value = code[at]
        at += 1
        if op == 0x20:
            accumulator = words[value]
        elif op == 0x06:
            return int(value)
        else:
            held = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[op]
            at += true if held else false


machines = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@machines
def test_denied_calls(machine: str) -> None:
    for name, numbers in seccomp.DENIED.items():
        number = numbers[COLUMN[machine]]
        if number is not None:
            assert run(machine, number) == ERRNO | 1, name


@machines
def test_two_layers_deny_what_one_filter_does(machine: str) -> None:
    layers = seccomp.layers(machine)
    for number in [*range(500), 0x40000000 + 41]:
        for arg0 in (0, 1, 2, 0x20000):
            whole = run(machine, number, arg0)
            found = {run(machine, number, arg0, data=layer) for layer in layers}
            assert found - {ALLOW} == {whole} - {ALLOW}, number
    for layer in layers:
        assert run(machine, 0, arch=0x40000003, data=layer) == KILL


@machines
def test_a_template_can_make_namespaces_and_nothing_else(machine: str) -> None:
    inherited, _ = seccomp.layers(machine)
    allowed = {
        name
        for name, numbers in seccomp.DENIED.items()
        if (number := numbers[COLUMN[machine]]) and run(machine, number, data=inherited) == ALLOW
    }
    assert allowed == {"mount", "umount2", "setns", "unshare"}


@machines
def test_another_architecture_is_killed(machine: str) -> None:
    assert run(machine, 0, arch=0x40000003) == KILL


@pytest.mark.parametrize(
    ("machine", "call", "arg0", "verdict"),
    [
        ("x86_64", 41, 1, ALLOW),  # socket(AF_UNIX)
        ("x86_64", 41, 2, ERRNO | 13),
        ("x86_64", 41, 16, ERRNO | 13),
        ("aarch64", 198, 1, ALLOW),
        ("aarch64", 198, 10, ERRNO | 13),
        ("x86_64", 302, 0, ALLOW),  # prlimit64 on oneself
        ("x86_64", 302, 1, ERRNO | 1),
        ("x86_64", 56, 0x11, ALLOW),  # clone, as fork does it
        ("x86_64", 56, 0x10000011, ERRNO | 1),  # CLONE_NEWUSER
        ("x86_64", 56, 0x40000011, ERRNO | 1),  # CLONE_NEWNET
        ("aarch64", 220, 0x20000, ERRNO | 1),  # CLONE_NEWNS
        ("x86_64", 435, 0, ERRNO | 38),  # clone3
        ("x86_64", 0x40000000, 0, ERRNO | 38),  # x32
        ("x86_64", 0, 0, ALLOW),  # read
        ("aarch64", 63, 0, ALLOW),
    ],
)
def test_arguments(machine: str, call: int, arg0: int, verdict: int) -> None:
    assert run(machine, call, arg0) == verdict


@machines
def test_no_number_is_listed_twice(machine: str) -> None:
    numbers = [item[COLUMN[machine]] for item in seccomp.DENIED.values()]
    known = [number for number in numbers if number is not None]
    assert len(known) == len(set(known))
