"""Methods by name: a literal dict, imported lazily; third parties add entry points."""

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points

from pedrl_agents.algorithm import Algorithm
from pedrl_sandbox.errors import PedrlError, unknown_name


@dataclass(frozen=True, slots=True)
class Method:
    """A method's place, and what a reader wants to know before choosing it.

    Attributes:
        path: ``module:attribute`` of its config class.
        summary: what it is, in a line.
        source: the paper, or what else it is.
        samples: who samples the rollouts.
        privileged: what it makes of information that the student never sees.
        control: whether a comparison should call it a control.
    """

    path: str
    summary: str
    source: str = ""
    samples: str = ""
    privileged: str = ""
    control: bool = False


_PACKAGE = "pedrl_agents.algorithms"
_BLOG = "Chakraborty et al., Pedagogical RL, 2026"
_VIEW = "the teacher's prompt"

METHODS: dict[str, Method] = {
    "pedagogical": Method(
        f"{_PACKAGE}.pedagogical:Pedagogical",
        "teacher GRPO on R * G, surprisal-gated imitation",
        _BLOG,
        "teacher",
        _VIEW,
    ),
    "grpo": Method(
        f"{_PACKAGE}.grpo:GRPO",
        "group-relative RL on the student's rollouts; DAPO, Dr.GRPO and GSPO by options",
        "2402.03300, 2503.14476, 2503.20783, 2507.18071",
        "student",
        "none",
    ),
    "opsd": Method(
        f"{_PACKAGE}.opsd:OPSD",
        "on-policy self-distillation from a privileged view",
        "2601.18734",
        "student",
        _VIEW,
    ),
    "sdft": Method(
        f"{_PACKAGE}.sdft:SDFT",
        "reverse KL to a moving average that has the demonstration in view",
        "2601.19897",
        "student",
        _VIEW,
    ),
    "sdpo": Method(
        f"{_PACKAGE}.sdpo:SDPO",
        "reverse KL to a moving average that is told how the attempt went",
        "2601.20802",
        "student",
        "none: siblings that passed, and public verdicts",
    ),
    "pi-distill": Method(
        f"{_PACKAGE}.pi_distill:PiDistill",
        "teacher and student views learn from the teacher's rollouts, on shared weights",
        "2602.04942",
        "teacher",
        _VIEW,
    ),
    "jolt": Method(
        f"{_PACKAGE}.jolt:JOLT",
        "both views learn from their own rollouts, each drawn to the other",
        "2610.10447",
        "teacher and student",
        _VIEW,
    ),
    "hdpo": Method(
        f"{_PACKAGE}.hdpo:HDPO",
        "GRPO, and distillation of correct privileged rollouts where all others fail",
        "2603.23871",
        "student, and teacher where the student is blind",
        _VIEW,
    ),
    "teacher-rl": Method(
        f"{_PACKAGE}.teacher_rl:TeacherRL",
        "teacher GRPO on R - lam * mean surprisal, plain SFT on what passes",
        f"{_BLOG} (ablation)",
        "teacher",
        _VIEW,
    ),
    "rejection-sft": Method(
        f"{_PACKAGE}.rejection_sft:RejectionSFT",
        "SFT on correct rollouts of an untrained teacher",
        "2203.14465, 2312.06585",
        "untrained teacher",
        _VIEW,
    ),
    "reference-sft": Method(
        f"{_PACKAGE}.reference_sft:ReferenceSFT",
        "SFT on reference solutions",
        "control",
        "nobody",
        "reference solutions, as answers",
        control=True,
    ),
    "oracle-sft": Method(
        f"{_PACKAGE}.oracle_sft:OracleSFT",
        "SFT on oracle derivations (upper bound)",
        "control",
        "nobody",
        "derivations, as answers",
        control=True,
    ),
}


def methods() -> dict[str, Method]:
    """Return every known method, entry points of the group `pedrl.algorithms` included."""
    extra = {e.name: Method(e.value, "third-party") for e in entry_points(group="pedrl.algorithms")}
    return extra | METHODS


def method_class(name: str) -> type[Algorithm]:
    """Import the config class of a method.

    Raises:
        PedrlError: if the name is unknown (near matches are shown) or cannot be imported.
    """
    known = methods()
    if name not in known:
        raise unknown_name("method", name, known)
    module, _, attribute = known[name].path.partition(":")
    try:
        loaded: type[Algorithm] = getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise PedrlError(f"method {name!r} ({module}) cannot be imported: {error}") from error
    return loaded
