"""Which checkpoint a comparison starts from."""

import json
from importlib.resources import files
from pathlib import Path

from pedrl_agents.models import checkpoint_folder
from pedrl_env.registry import make_suite
from pedrl_experiments.config import CompareConfig
from pedrl_experiments.relatives import check_relatives
from pedrl_sandbox.errors import PedrlError

SHIPPED = {"lexicon": "data/lexicon-base"}


def base_path(config: CompareConfig) -> Path:
    """Return the base checkpoint of a comparison: the one named, or the suite's own.

    Raises:
        PedrlError: if the suite ships none, or what is named cannot be had, was pre-trained for
            other dials, or trained on a relative of the suite.
    """
    if config.base:
        path = checkpoint_folder(config.base)
    elif config.suite in SHIPPED:
        path = Path(str(files("pedrl_tasks") / SHIPPED[config.suite]))
    else:
        raise PedrlError(
            f"suite {config.suite!r} ships no base model: name a folder, a hub id or an added "
            "model (`pedrl models list`) with --base"
        )
    check_relatives(config, path)
    recipe = path / "pretrain.json"
    if config.suite == "lexicon" and recipe.is_file():
        _check_dials(config, path, json.loads(recipe.read_text())["mix"])
    return path


def _check_dials(config: CompareConfig, path: Path, mix: dict[str, int]) -> None:
    """Refuse a base that has never seen chains of this shape: every method would score zero."""
    dials = make_suite(config.suite, dict(config.dials)).dials  # type: ignore[attr-defined]
    for name in ("length", "modulus"):
        if getattr(dials, name) != mix[name]:
            raise PedrlError(
                f"the base at {path} was pre-trained for {name}={mix[name]}, not "
                f"{getattr(dials, name)}: build one with `pedrl pretrain lexicon "
                f"--set {name}={getattr(dials, name)} --out FOLDER` and name it with --base"
            )
