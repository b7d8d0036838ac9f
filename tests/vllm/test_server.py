"""A vLLM server as the sampler: the real one, started once; the last test kills it."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import urllib3
from transformers import AutoConfig

from pedrl_agents.torch_policy import Storage
from pedrl_agents.vllm_engine import VllmEngine, VllmSettings
from pedrl_agents.vllm_heads import widening
from pedrl_agents.vllm_http import SERVE
from pedrl_agents.vllm_server import VllmServer
from pedrl_env.records import GenerationRequest, Role, Turn
from pedrl_sandbox.errors import PedrlError
from tests.small_models import small_model
from tests.tiny import make_task
from tests.vllm.compare import compare_grpo
from tests.vllm.test_engine import (
    EXACT,
    MOVED,
    apart,
    check_giving_up,
    flatten,
    make_policy,
    nudge,
    requests,
    sampled,
)

READY_S = 400


def serve(base: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start what an error tells to start; heads as wide as CPU kernels want them, weights to come.

    The wheel for CPUs has another name than its command looks for: so it is started as a module.
    """
    config = AutoConfig.from_pretrained(base)
    wide = widening(config, [32])
    assert wide is not None
    setting, _, _, model, *flags = shlex.split(SERVE.format(base, "float32"))
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags]
    command += ["--hf-overrides", json.dumps(wide.overrides(config)), "--load-format", "dummy"]
    command += ["--skip-tokenizer-init", "--enforce-eager", "--kv-cache-memory-bytes", str(2**28)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--block-size", "32"]
    environment = os.environ | dict([setting.split("=")]) | {"HF_HUB_OFFLINE": "1"}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # the engine of this process sets it
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


@pytest.fixture(scope="module")
def process(
    base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    url, started = f"http://127.0.0.1:{port}", time.monotonic()
    running = serve(base, port, log)
    try:
        while time.monotonic() < started + READY_S:
            assert running.poll() is None, log.read_text(errors="replace")[-3000:]
            try:
                if urllib3.request("GET", f"{url}/health", retries=False).status == 200:
                    break
            except urllib3.exceptions.HTTPError:
                time.sleep(0.3)
        else:
            pytest.fail(f"no server in {READY_S} s: {log.read_text(errors='replace')[-3000:]}")
        print(f"vLLM server: ready after {time.monotonic() - started:.0f} s")  # noqa: T201
        yield running, url
    finally:
        if running.poll() is None:  # the last test has killed it
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()


@pytest.fixture(scope="module")
def server(base: Path, process: tuple[subprocess.Popen[bytes], str]) -> VllmServer:
    torch.set_num_threads(1)
    return VllmServer(base, VllmSettings(url=process[1]))


def stale(server: VllmServer, base: Path, storage: Storage, role: Role) -> float:
    """How far the server's weights are from ones that were moved and not sent."""
    policy = make_policy(base, server, storage=storage)
    nudge(policy, role)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "sync", lambda policy, role: None)
        return apart(policy, role, sampled(policy, role))


@pytest.mark.parametrize("storage", ["separate", "lora"])
def test_sampled_logprobs_equal_the_learners_after_a_sync_and_not_before(
    base: Path, server: VllmServer, storage: Storage
) -> None:
    policy = make_policy(base, server, storage=storage)
    roles: tuple[Role, ...] = ("student", "teacher")
    for role in roles:
        assert apart(policy, role, sampled(policy, role)) < EXACT
        assert stale(server, base, storage, role) > MOVED
        nudge(policy, role)
        after = apart(policy, role, sampled(policy, role))
        print(f"{storage} {role}: |log pi_server - log pi_torch| <= {after:.1e}")  # noqa: T201
        assert after < EXACT


def test_weights_travel_only_when_they_are_others(base: Path, server: VllmServer) -> None:
    policy = make_policy(base, server, storage="shared")
    sampled(policy, "student")
    syncs = server.syncs
    sampled(policy, "student")
    sampled(policy, "teacher")
    assert server.syncs == syncs
    nudge(policy, "student")
    sampled(policy, "student")
    assert server.syncs == syncs + 1
    assert list(server._folder.iterdir()) == []  # what was read is gone


def test_same_seed_same_tokens_and_those_of_the_engine_in_this_process(
    base: Path, server: VllmServer, engine: VllmEngine
) -> None:
    policy = make_policy(base, server)
    first, again, other = (sampled(policy, "student", seed=s) for s in (7, 7, 8))
    assert [t.action_ids for t in first] == [t.action_ids for t in again]
    assert [t.action_ids for t in first] != [t.action_ids for t in other]
    near = sampled(make_policy(base, engine), "student", seed=7)
    equal = sum(a.action_ids == b.action_ids for a, b in zip(first, near, strict=True))
    print(f"{equal} of {len(near)} answers equal to the engine's")  # noqa: T201
    assert equal >= 0.9 * len(near)  # a tie, to rounding, may fall otherwise


def test_temperatures(base: Path, server: VllmServer) -> None:
    for temperature in (0.0, 0.6):
        policy = make_policy(base, server, temperature=temperature)
        turns = sampled(policy, "student")
        assert apart(policy, "student", turns) < EXACT
        if not temperature:
            assert len({t.action_ids for t in turns}) == 5  # prompts


def test_an_answer_ends_with_its_code_at_the_server_too(base: Path, server: VllmServer) -> None:
    policy = make_policy(base, server, tokens=100, prompt_format="completion")
    task = make_task("bare", "# zorp\ndef f(x):\n    return x\n")
    flatten(policy, 0.2)  # it now begins a line with whatever comes to its mind
    turns = policy.generate([GenerationRequest(task, "student", 48)], 5)[0]
    assert {"stop", "eos"} <= {turn.stop for turn in turns}
    for turn in turns:
        over = [policy.view.over(list(turn.action_ids[:n])) for n in range(1, 101)]
        ends = [n + 1 for n, stop in enumerate(over[: len(turn.action_ids)]) if stop]
        assert ends == ([] if turn.stop == "length" else [len(turn.action_ids)])
    assert apart(policy, "student", turns) < EXACT
    nudge(policy, "student")
    server.sync(policy, "student")  # its cache can be emptied: nothing runs on


def test_a_rollout_that_is_given_up_leaves_nothing_behind(base: Path, server: VllmServer) -> None:
    check_giving_up(make_policy(base, server))


def test_somebody_elses_weights_are_noticed(base: Path, server: VllmServer) -> None:
    policy, other = (make_policy(base, server) for _ in range(2))
    nudge(other, "student")
    rival = VllmServer(base, server._settings)

    def meddle(index: int, sample: int, turn: Turn) -> None:
        rival.sync(other, "student")

    one = requests("student", 1)[:1]
    with pytest.raises(PedrlError, match="can serve one at a time"):
        policy.generate(one, 3, meddle)
    # Between two calls it does no harm: it is sent ours again.
    syncs = server.syncs
    assert apart(policy, "student", sampled(policy, "student")) < EXACT
    assert server.syncs == syncs + 1


def test_another_model_is_refused_before_it_is_spoilt(
    base: Path, server: VllmServer, tmp_path: Path
) -> None:
    with pytest.raises(PedrlError, match=r"another model than .*: start it with `VLLM_SERVER_DEV"):
        VllmServer(small_model("llama", tmp_path / "small"), server._settings)
    with pytest.raises(PedrlError, match=r"runs with --dtype float32, and bfloat16 is needed"):
        VllmServer(base, VllmSettings(url=server._settings.url, dtype="bfloat16"))
    # Where its folder cannot be read, what it samples tells.
    policy = make_policy(base, VllmServer(base, server._settings))
    policy.models["student"].model.rotary_emb.inv_freq.mul_(1.2)
    with pytest.raises(PedrlError, match=r"log-probabilities are .* from the policy's"):
        sampled(policy, "student")
    policy = make_policy(base, server)
    assert apart(policy, "teacher", sampled(policy, "teacher")) < EXACT


def test_the_command(base: Path, server: VllmServer, tmp_path: Path) -> None:
    preset = tmp_path / "small.toml"
    preset.write_text(
        'suite = "lexicon"\nseeds = 1\nbudget = 96\ntasks_per_step = 4\neval_points = 0\n'
        'eval_tasks = 4\nfinal_tasks = 4\ndials = { coined = 1 }\nbackend = "vllm"\n'
        f'[vllm]\nurl = "{server._settings.url}"\nfolder = "{tmp_path}"\n'
        "[settings.grpo]\ngroup_size = 8\n"
    )
    metrics = compare_grpo(preset, tmp_path / "out")
    found = metrics[metrics["name"] == "mismatch/student_max"]["value"]
    print(f"training: mismatch of steps {found.tolist()}")  # noqa: T201
    assert len(found) >= 2
    assert found.max() < EXACT
    assert not list(tmp_path.glob("pedrl-*"))


def test_a_server_that_dies_is_said_and_how_to_go_on(
    base: Path, server: VllmServer, process: tuple[subprocess.Popen[bytes], str]
) -> None:
    policy = make_policy(base, server)

    def kill(index: int, sample: int, turn: Turn) -> None:
        os.killpg(process[0].pid, signal.SIGKILL)
        process[0].wait()

    with pytest.raises(PedrlError, match=r"no vLLM server answers at .*takes up where its run was"):
        policy.generate(requests("student", 64), 4, kill)
