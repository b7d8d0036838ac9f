"""Pedagogical RL (Chakraborty et al., 2026): train the teacher to be followed, then follow it.

Every step, the teacher samples with the privileged context in view. Its rollouts are verified (R)
and read by the student (G); GRPO on R * G moves the teacher, and surprisal-gated imitation of the
correct rollouts moves the student. The student is the meter of a step before that step moves it.

Published: the formulas of G, of the reward and of the gate. Not published: lam, kappa, gamma, the
schedule. Ours are defaults chosen on validation tasks, and the report gives their sensitivity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar, Literal

from pedrl_agents.algorithm import Annotation, State
from pedrl_agents.algorithms.grpo import GRPO
from pedrl_agents.forward import Pair
from pedrl_agents.knobs import Count, Positive, Share, Span
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.mechanism import teacher_metrics
from pedrl_agents.reading import Reading, read_as_student
from pedrl_agents.signals import GATES, Gate, Meter, Normalisation, group_advantages, reinforce
from pedrl_agents.torch_policy import Storage, TorchPolicy
from pedrl_env.records import FloatArray, GenerationRequest, Group, Signal, Task


@dataclass(frozen=True, slots=True)
class Pedagogical:
    """Teacher GRPO on R * G, gated imitation, in alternation.

    Attributes:
        group_size: teacher rollouts per task and step.
        lam, beta: weight and sharpness of surprise in G; beta 0 is the mean gap, inf the largest.
        meter: what G reads: the ``gap`` (published), absolute ``surprisal``, ``entropy-gap``,
            ``rank-ratio``, or the limits ``mean`` and ``max`` of the gap; see signals.py.
        reward: ``product`` R * G (published), ``additive`` R - lam * mean surprisal, or
            ``correctness`` R alone.
        advantage: ``none`` subtracts the group mean only; ``group`` also divides by the group's
            std, which can drive the teacher into the leap (R * G is continuous); ``batch`` divides
            by the batch's.
        kappa, gamma: slope and threshold (nats) of the gate. -9.2 is log 1e-4; at -3 the gate can
            close for good on what a student that is confidently wrong needs most.
        gate: ``sigmoid`` (published), ``hard`` (open above gamma, shut below) or ``none``.
        warmup: first steps in which only the teacher learns; imitating while it still leaps raises
            the G of leaps.
        teacher_steps, student_steps: after the warm-up, rounds of so many steps in which the
            teacher alone learns, then so many in which the student alone does; 0 and 0 let both
            learn in every step.
        select: imitate ``all`` correct rollouts, the ``best`` G of each task, or those with G above
            a ``threshold``.
        least_g: that threshold.
        replay: so many of the latest selected rollouts are imitated again in every step, with
            gates of the student as it is then.
        final_grpo: last steps in which the student samples itself and learns by GRPO.
        train_teacher: False leaves the teacher as it is (ablation).
        storage: two copies, two LoRA adapters over one base, shared weights, or a teacher that is
            the student's moving average; with the latter two, what moves the teacher moves the
            student's weights.
    """

    group_size: Positive = 8
    lam: Annotated[float, Span(0.0, inf, "0.5 to 1")] = 1.0
    beta: Annotated[float, Span(0.0, inf, "5 to 10")] = 5.0
    meter: Meter = "gap"
    reward: Literal["product", "additive", "correctness"] = "product"
    advantage: Normalisation = "batch"
    kappa: Annotated[float, Span(0.0, inf, "1 to 4")] = 2.0
    gamma: Annotated[float, Span(-inf, inf, "-2.5 to -4, or -9.2")] = -9.2
    gate: Gate = "sigmoid"
    warmup: Count = 5
    teacher_steps: Count = 0
    student_steps: Count = 0
    select: Literal["all", "best", "threshold"] = "all"
    least_g: Share = 0.5
    replay: Count = 0
    final_grpo: Count = 0
    train_teacher: bool = True
    storage: Storage = "separate"
    policy_loss: PolicyLoss = PolicyLoss()
    divergence: ClassVar[Divergence] = Divergence()

    def plan(self, tasks: Sequence[Task], state: State) -> list[GenerationRequest]:
        """Every rollout is the teacher's, but for those of the final GRPO."""
        if self._finishing(state):
            return GRPO(self.group_size).plan(tasks, state)
        return [GenerationRequest(task, "teacher", self.group_size) for task in tasks]

    def signal(self, groups: Sequence[Group], policy: TorchPolicy, state: State) -> Annotation:
        """Reward the teacher with R * G; weigh its correct rollouts for the student."""
        if self._finishing(state):
            return GRPO(self.group_size).signal(groups, policy, state)
        teaching, imitating = self._phase(state.step)
        readings_GS = read_as_student(groups, policy, self.lam, self.beta, self.meter)
        readings = [r for group in readings_GS for r in group]
        signals: list[Signal] = []
        if teaching:
            rewards_GS = [[self._reward(r) for r in group] for group in readings_GS]
            advantages = [a for g in group_advantages(rewards_GS, self.advantage) for a in g]
            signals += [
                reinforce("teacher", r.turn, a) for r, a in zip(readings, advantages, strict=True)
            ]
        gates: list[FloatArray] = []
        fresh = [r for group in readings_GS for r in self._selected(group)]
        if imitating:
            pairs = [(r.view, r.action_ids) for r in fresh] + list(state.replay)
            read = [r.scores for r in fresh] + policy.score("student", state.replay)
            gates = [GATES[self.gate](s.logprobs, self.kappa, self.gamma) for s in read]
            signals += [
                Signal("student", *pair, ce_weights=gate)
                for pair, gate in zip(pairs, gates, strict=True)
            ]
        metrics = teacher_metrics(readings, gates, policy, state.style)
        return Annotation(signals, metrics, replay=self._kept(state.replay, fresh))

    def _reward(self, reading: Reading) -> float:
        correct = reading.trajectory.verdict.reward
        if self.reward == "product":
            return correct * reading.learnability
        if self.reward == "additive":
            return correct + self.lam * float(reading.scores.logprobs.mean())
        return correct

    def _selected(self, group: Sequence[Reading]) -> list[Reading]:
        correct = [r for r in group if r.correct]
        if self.select == "best":
            return sorted(correct, key=lambda r: -r.learnability)[:1]
        if self.select == "threshold":
            return [r for r in correct if r.learnability > self.least_g]
        return correct

    def _kept(self, replay: tuple[Pair, ...], fresh: Sequence[Reading]) -> tuple[Pair, ...]:
        both = (*replay, *((r.view, r.action_ids) for r in fresh))
        return both[-self.replay :] if self.replay else ()

    def _phase(self, step: int) -> tuple[bool, bool]:
        """Say whether teacher and student learn at a step."""
        if step < self.warmup:
            return self.train_teacher, False
        length = self.teacher_steps + self.student_steps
        if length == 0:
            return self.train_teacher, True
        teaching = (step - self.warmup) % length < self.teacher_steps
        return teaching and self.train_teacher, not teaching

    def _finishing(self, state: State) -> bool:
        return state.steps - state.step <= self.final_grpo
