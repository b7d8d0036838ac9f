"""What a checkpoint was trained on must share no problems with what it is tested on."""

import json
from pathlib import Path

from pedrl_env.registry import make_suite
from pedrl_env.suite import SuiteInfo, check_groups
from pedrl_experiments.config import CompareConfig
from pedrl_sandbox.errors import PedrlError


def check_relatives(config: CompareConfig, checkpoint: Path) -> None:
    """Refuse a checkpoint of a run whose suite shares problems with that of ``config``.

    What a run trained on stands in the ``config.json`` of its comparison; a checkpoint that lies
    elsewhere tells nothing.

    Args:
        config: the suite that is to be tested on, or trained on from here.
        checkpoint: folder, ``OUT/runs/RUN/final`` where a comparison left it.

    Raises:
        PedrlError: the suites are of one contamination group, or this cannot be known.
    """
    parents = checkpoint.resolve().parents
    record = parents[2] / "config.json" if len(parents) > 2 else checkpoint / "config.json"
    if checkpoint.name != "final" or not record.is_file():
        return
    try:
        plain = json.loads(record.read_text(encoding="utf-8"))
        trained, dials = plain["suite"], plain["dials"]
        if trained == config.suite:
            return
        suites = (make_suite(trained, dials), make_suite(config.suite, dict(config.dials)))
    except (PedrlError, ValueError, KeyError) as error:
        raise PedrlError(
            f"what {checkpoint} was trained on cannot be known: {record}: {error}; mend that, or "
            "copy the checkpoint out of its run if you are sure"
        ) from error
    infos = [getattr(suite, "info", None) for suite in suites]
    one, other = ([info] if isinstance(info, SuiteInfo) else [] for info in infos)
    check_groups(one, other)
