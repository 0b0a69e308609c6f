"""The page of benchmarks/search.py: tables, verdicts and pictures from the cells that there are, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cells import DONE, INFEASIBLE, Record, conditions, is_answer, table

from chipfit.picture import picture, side_by_side

INT8 = "+int8"  # behind an arm that has the pass quantize too
OURS = "knapsack"
ASKED = {"50%": 0.25}  # by how much smaller our loss should be there than the best other one
STAGES = {"before recovery": "before_recovery", "after recovery": "result"}  # as the page and as manifests name them
PICTURE = "search.svg"


@dataclass(frozen=True)
class Spread:
    """What the seeds gave, as parts of one."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    def __str__(self) -> str:
        low, mean, high = (f"{100 * value:.2f}" for value in (min(self.values), self.mean, max(self.values)))
        return f"{mean}%" if low == high else f"{mean}% ({low}..{high})"


@dataclass(frozen=True)
class Section:
    """All answers about one model after one number of steps of recovery, and the cells that have none."""

    model: str
    steps: int
    budgets: tuple[str, ...]
    arms: tuple[str, ...]
    answers: tuple[Record, ...]
    missing: tuple[Mapping[str, Any], ...]

    def of(self, budget: str, arm: str) -> list[Record]:
        return [one for one in self.answers if (one["budget"], one["arm"]) == (budget, arm)]

    def reached(self, budget: str, arm: str) -> list[Record]:
        return [one for one in self.of(budget, arm) if one["exit_code"] == DONE]

    def loss(self, budget: str, arm: str, stage: str) -> Spread | None:
        found = self.reached(budget, arm)
        return Spread(tuple(loss(one, stage) for one in found)) if found else None


@dataclass(frozen=True)
class Contest:
    """An arm of ours against others: those in int8, or those without."""

    title: str
    ours: str
    suffix: str

    def others(self, section: Section, budget: str) -> list[str]:
        there = (arm for arm in section.arms if arm.removesuffix(INT8) != OURS and section.of(budget, arm))
        return [arm for arm in there if arm.endswith(INT8) == bool(self.suffix)]


CONTESTS = (
    Contest("with precision, against the others as their papers do them", OURS + INT8, ""),
    Contest("with precision, against the others wholly in int8", OURS + INT8, INT8),
    Contest("without precision, against the others as their papers do them", OURS, ""),
)


@dataclass(frozen=True)
class Verdict:
    """Whether our loss is the smallest at a point, and by which part of the best other one, if that is above zero."""

    budget: str
    won: bool
    margin: float | None
    text: str


def loss(record: Record, stage: str, part: str | None = None) -> float:
    """How much worse the metric, or a part of it, is than the uncompressed model's, relative to that."""
    whole, found = record["baseline"]["quality"], record[STAGES[stage]]["quality"]
    higher_is_better = (found["value"] <= whole["value"]) == (found["retention"] <= 1)
    before, after = (one["parts"][part] if part else one["value"] for one in (whole, found))
    return (before - after if higher_is_better else after - before) / before


def sections(records: Sequence[Record], expected: Sequence[Mapping[str, Any]]) -> list[Section]:
    """One for each model and number of steps among the expected cells, in their order."""
    answers = {one["key"]: one for one in records if is_answer(one)}
    found = []
    for model, steps in dict.fromkeys((cell["model"], cell["steps"]) for cell in expected):
        cells = [cell for cell in expected if (cell["model"], cell["steps"]) == (model, steps)]
        budgets, arms = (tuple(dict.fromkeys(cell[name] for cell in cells)) for name in ("budget", "arm"))
        there = tuple(answers[cell["key"]] for cell in cells if cell["key"] in answers)
        absent = tuple(cell for cell in cells if cell["key"] not in answers)
        found.append(Section(model, steps, budgets, arms, there, absent))
    return found


def verdict(section: Section, budget: str, stage: str, contest: Contest) -> Verdict | None:
    """None where there is nothing to compare yet."""
    others = contest.others(section, budget)
    if not section.of(budget, contest.ours) or not others:
        return None
    ours = section.loss(budget, contest.ours, stage)
    theirs = {arm: found for arm in others if (found := section.loss(budget, arm, stage))}
    best = min(theirs, key=lambda arm: theirs[arm].mean, default=None)
    if best is None:
        return Verdict(budget, True, 1.0, "won, no other arm reaches it.") if ours else None
    if ours is None:
        return Verdict(budget, False, None, f"LOST, it isn't reached, but by {best}.")
    return compared(budget, ours, f"{best}, the best of {len(theirs)}", theirs[best])


def compared(budget: str, ours: Spread, best: str, theirs: Spread) -> Verdict:
    won = ours.mean <= theirs.mean
    margin = min(1.0, 1 - ours.mean / theirs.mean) if theirs.mean > 0 else None
    by = f"{abs(margin):.0%}" if margin is not None else f"{100 * abs(theirs.mean - ours.mean):.2f} points"
    text = f"{'won' if won else 'LOST'}, {ours} against {theirs} by {best}: {by} {'smaller' if won else 'larger'}"
    if won and budget in ASKED and (margin is None or margin < ASKED[budget]):
        text += f", where {ASKED[budget]:.0%} are asked"
    if won and len(ours.values) > 1 and max(ours.values) >= min(theirs.values):
        text += "; the seeds' ranges meet"
    return Verdict(budget, won, margin, f"{text}.")


def page(found: Sequence[Section]) -> str:
    intro = f"""# Strategies at equal measured latency

`make bench-search`. Each cell is one `chipfit compile --strategy ARM` at a share of the uncompressed model's latency.
What is measured is compiled code, beside the uncompressed model's in one interleaved run, and each arm's choice is
corrected until it fits. All arms of a model have the same data to calibrate on, the same closed-form repair
(`compensate`, which the published methods don't have of their own) and the same steps of distillation. The {OURS}
chooses widths, ranks and blocks together, the others what their papers do. Behind `{INT8}` an arm may use
`quantize{{activations=true}}` too: the {OURS} chooses which layers are worth it, for any other arm all of the model is
in int8 and the rest of the latency is pruned away. An arm that need not remove anything then is whole in int8.

The loss is by how much the metric is worse on held-out data than the uncompressed model's, relative to that: before
recovery what it would be without the distillation, after recovery at the end. Figures are means over seeds, the least
and the most in brackets. Latency is measured, as a part of the uncompressed model's. `unreachable`: an arm can choose
nothing so fast. EfficientNet-lite0 is fitted to four hundred pictures of things on white and judged on sixty-four of
other things: with ImageNet itself all arms would recover further. MiniLM's correlations can rise above the uncompressed
model's by chance, and its loss is negative then.

{summaries(found)}{absence(found)}

![Loss against measured latency]({PICTURE})"""
    return "\n\n".join([intro, *(text for section in found for text in parts(section))]) + "\n"


def summaries(found: Sequence[Section]) -> str:
    lines = []
    for contest in CONTESTS:
        judged = [one for section in found for stage in STAGES for one in verdicts(section, stage, contest)]
        lines.append(f"- {contest.title.capitalize()}: {summary(judged)}")
    return "\n".join(lines)


def summary(judged: Sequence[Verdict]) -> str:
    """What was asked for, in one sentence."""
    won = sum(one.won for one in judged)
    text = f"the {OURS}'s loss is the smallest at {won} of {len(judged)} points"
    for budget, share in ASKED.items():
        there = [one for one in judged if one.budget == budget]
        enough = sum(one.margin is not None and one.margin >= share for one in there)
        text += f"; at {budget} it is smaller by {share:.0%} or more at {enough} of {len(there)}"
    return f"{text}."


def absence(found: Sequence[Section]) -> str:
    missing, there = (sum(map(len, parts)) for parts in zip(*((s.missing, s.answers) for s in found), strict=True))
    return f"\n\nThat is so far: {missing} of {missing + there} cells are missing." if missing else ""


def verdicts(section: Section, stage: str, contest: Contest) -> list[Verdict]:
    return [found for budget in section.budgets if (found := verdict(section, budget, stage, contest))]


def parts(section: Section) -> Iterator[str]:
    """The paragraphs of a section."""
    yield f"## {section.model}, {section.steps} steps of recovery"
    yield conditions(section.answers)
    reached = [one for one in section.answers if one["exit_code"] == DONE]
    if reached:
        quality, made_up = reached[0]["baseline"]["quality"], reached[0]["lineage"].get("synthetic_data")
        yield f"{quality['metric']}{', on made-up inputs' if made_up else ''}: {quality['value']:.4g} uncompressed."
    for contest in CONTESTS:
        judged = ((stage, one) for stage in STAGES for one in verdicts(section, stage, contest))
        lines = [f"- {one.budget}, {stage}: {one.text}" for stage, one in judged]
        if lines:
            yield f"{contest.title.capitalize()}:\n\n" + "\n".join(lines)
    named = list(reached[0]["baseline"]["quality"]["parts"]) if reached else []
    for budget in section.budgets:
        rows = [row(section, budget, arm, named) for arm in section.arms if section.of(budget, arm)]
        if rows:
            columns = ("arm", "seeds", "latency", *STAGES, *(f"{name}, after" for name in named))
            yield f"### {section.model} at {budget}\n\n" + table(columns, rows)
    yield from notes(section)


def row(section: Section, budget: str, arm: str, named: Sequence[str]) -> tuple[str, ...]:
    found = section.reached(budget, arm)
    if not found:
        return (arm, str(len(section.of(budget, arm))), "unreachable", *("" for _ in (*STAGES, *named)))
    latency = Spread(tuple(one["certificate"]["latency_ratio"] for one in found))
    losses = [str(section.loss(budget, arm, stage)) for stage in STAGES]
    shares = [str(Spread(tuple(loss(one, "after recovery", name) for one in found))) for name in named]
    return (arm, str(len(found)), str(latency), *losses, *shares)


def notes(section: Section) -> Iterator[str]:
    """Why an arm doesn't reach a budget, by its own words, and what was not run."""
    told = {(one["arm"], one["budget"]): one["sentence"] for one in section.answers if one["exit_code"] == INFEASIBLE}
    if told:
        yield "\n".join(
            f"- {arm} at {budget}: {words.removeprefix('Error: ')}" for (arm, budget), words in told.items()
        )
    if section.missing:
        absent: dict[str, list[str]] = {}
        for cell in section.missing:
            absent.setdefault(f"{cell['arm']} at {cell['budget']}", []).append(str(cell["seed"]))
        listed = ", ".join(f"{name} (seed {', '.join(seeds)})" for name, seeds in absent.items())
        whole = len(section.answers) + len(section.missing)
        command = f"python benchmarks/search.py --models {section.model} --steps {section.steps}"
        yield f"{len(section.missing)} of {whole} cells are missing; `{command}` makes them: {listed}."


def drawn(found: Sequence[Section]) -> str:
    """Two pictures a section, before and after recovery: the arms' mean losses over their mean latencies."""
    pictures = []
    for section in found:
        for stage in STAGES:
            lines = {arm: line(section, arm, stage) for arm in section.arms}
            labels = ("measured latency, as a part of the uncompressed model's", "loss; none or less is not drawn")
            title = f"{section.model}, {stage} ({section.steps} steps)"
            pictures.append(picture(title, labels, {arm: points for arm, points in lines.items() if points}))
    return side_by_side(pictures, len(STAGES))


def line(section: Section, arm: str, stage: str) -> list[tuple[float, float]]:
    points = []
    for budget in section.budgets:
        found = section.reached(budget, arm)
        if found:
            latency = fmean(one["certificate"]["latency_ratio"] for one in found)
            points.append((latency, fmean(loss(one, stage) for one in found)))
    return points
