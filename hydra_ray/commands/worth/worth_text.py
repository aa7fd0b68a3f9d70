"""What `hydra-ray worth` prints: the verdict first, then figures, and what histories cannot tell."""

from collections.abc import Iterator

from hydra_ray.commands.worth.held_out import CONSTANT, OWN, RECORDS, TEXT, HeldOut
from hydra_ray.commands.worth.label_shares import LabelShares
from hydra_ray.commands.worth.worth import MIN_USERS, Amount, Worth
from hydra_ray.commands.worth.writing_style import Trait
from hydra_ray.evaluate.intervals import Interval, level_text, signed_text
from hydra_ray.findings import counted

_TITLES = {
    CONSTANT: "the most common answer",
    TEXT: "the text alone",
    RECORDS: "and the user's records",
    OWN: "and an own head",
}


def worth_lines(found: Worth) -> Iterator[str]:
    """Yield what to print."""
    yield from found.seen
    yield from _amount_lines(found.amount, "candidate" if found.kind == "preference" else "input")
    yield ""
    if found.verdict == "too little data":
        yield (
            f"TOO LITTLE DATA: {counted(found.amount.num_comparable_users, 'user')} with two records or more on "
            f"different inputs, and nothing can be told of fewer than {MIN_USERS}"
        )
        return
    if found.held_out is not None:
        yield from _closed_lines(found, found.held_out)
    if found.labels is not None:
        yield from _label_lines(found.labels)
    if found.style is not None:
        yield from _style_lines(found, found.style)


def _amount_lines(amount: Amount, asked: str) -> Iterator[str]:
    low, middle, high = amount.records_per_user
    sampled = "" if amount.is_whole else f", a sample of {amount.num_users_read:,} in the files"
    yield f"users: {amount.num_users:,} with records{sampled}"
    if amount.num_rejected:
        yield f"  {counted(amount.num_rejected, 'malformed user')} left out"
    yield (
        f"records: {amount.num_records:,}, {middle:g} a user in the middle (half of them have {low:g} to {high:g}), "
        f"on {counted(amount.num_inputs, f'distinct {asked}')}"
    )


def _closed_lines(found: Worth, systems: HeldOut) -> Iterator[str]:
    total, own = systems.gain(OWN, TEXT), systems.gain(OWN, RECORDS)
    by_records = systems.gain(RECORDS, TEXT)
    what = "1 - error / range" if found.kind == "rating" else "accuracy"
    if found.expected == "own heads":
        yield f"PERSONAL: expect {what} {signed_text(total.quality)} over the text alone, with own heads"
        yield f"  of which own heads {signed_text(own.quality)} beyond what the user's records show"
    elif found.expected == "records":
        yield f"PERSONAL: expect {what} {signed_text(by_records.quality)} over the text alone, by the user's records"
        yield f"  own heads add nothing that can be shown ({signed_text(own.quality)}), and would be off"
    else:
        yield f"NOTHING PERSONAL CAN BE SHOWN: {what} {signed_text(total.quality)} over the text alone"
    yield from _power_lines(found, systems)
    yield ""
    yield (
        f"{systems.num_records:,} held-out records of {systems.num_users:,} held-out users, means over users "
        "with 95 % intervals:"
    )
    for each in systems.systems:
        title = "any candidate" if (found.kind, each.name) == ("preference", CONSTANT) else _TITLES[each.name]
        yield f"  {title:<24}{what} {level_text(each.quality)}   log loss {level_text(each.loss)}"
    yield "  falls of the log loss, whose lower bounds decide:"
    for gain in systems.gains:
        yield f"    {gain.name} over {gain.over}: {signed_text(gain.loss)}"
    if found.kind != "preference":
        yield (
            "Not told: what a generator adds, by knowledge that no record shows or by reading records in its prompt. "
            "A run of a few users tells (users.max_users=100)."
        )


def _power_lines(found: Worth, systems: HeldOut) -> Iterator[str]:
    """Yield what these data can show at all."""
    quality = systems.gain(RECORDS if found.expected == "records" else OWN, TEXT).quality
    if quality.low is None or quality.high is None:
        return
    half = (quality.high - quality.low) / 2
    yield f"  these data tell gains of about {half:.4f} from none; four times the users halve that"


def _label_lines(labels: LabelShares) -> Iterator[str]:
    other, explained = labels.other_majority, labels.explained
    yield (
        f"Labels: {_percent(other)} of users most often give another label than the most common one, "
        f"{labels.majority}; were labels dealt out by chance, {100 * labels.other_majority_by_chance:.1f} %"
    )
    yield (
        f"  who the user is explains {_percent(explained)} of the labels' entropy beyond chance (permutation test, p = "
        f"{labels.p_value:.3f}); who is asked what is a part of it"
    )


def _style_lines(found: Worth, style: tuple[Trait, ...]) -> Iterator[str]:
    if found.verdict == "personal":
        names = ", ".join(trait.name for trait in style if trait.is_above_zero)
        yield f"PERSONAL: users' texts differ in {names}"
    else:
        yield "NOTHING PERSONAL CAN BE SHOWN in the form or the words of users' texts"
    yield ""
    yield "Users' texts, with 99 % intervals; above zero where users differ:"
    for trait in style:
        yield f"  {trait.name:<12} {signed_text(trait.value)}  {trait.meaning}"
    yield (
        "Not told: how much of this a generator takes over from records in its prompt, and what better texts are worth "
        "by any metric; what users write about is a part of it. A run of a few users tells (users.max_users=100)."
    )


def _percent(figure: Interval) -> str:
    bounds = "" if figure.low is None or figure.high is None else f" [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"
    return f"{100 * figure.value:.1f}{bounds} %"
