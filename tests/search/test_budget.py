import pytest

from chipfit.errors import UserError
from chipfit.search.budget import Limit, parse_budget, parse_share


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency=60%", Limit("latency", 0.6, True)),
        ("latency=12.5ms", Limit("latency", 12.5, False)),
        ("latency=2s", Limit("latency", 2000.0, False)),
        ("memory=64MB", Limit("memory", 64e6, False)),
        ("size=1GiB", Limit("size", 2.0**30, False)),
    ],
)
def test_reads(text, limit):
    budget = parse_budget([text])
    assert budget.limits == (limit,)
    assert parse_budget(str(budget).split()) == budget or text.endswith("iB")


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([], "No budget is given: say for example --budget latency=50%."),
        (["fast"], "The budget 'fast' can't be read: write QUANTITY=NUMBER and a unit or %, as in latency=60%."),
        (["speed=3ms"], "The budget 'speed=3ms' names no known quantity: use one of latency, memory, size, energy."),
        (["latency=-5%"], "The budget 'latency=-5%' must be above zero."),
        (["latency=0ms"], "The budget 'latency=0ms' must be above zero."),
        (["latency=5MB"], "The budget 'latency=5MB' has an unknown unit: latency takes %, s, ms, us."),
        (["latency=1.2.3ms"], "'1.2.3' in 'latency=1.2.3ms' is not a number."),
        (["size=1MB", "size=50%"], "The budget names size twice: give it once."),
    ],
)
def test_refuses_in_one_sentence(texts, sentence):
    with pytest.raises(UserError) as error:
        parse_budget(texts)
    assert str(error.value) == sentence


def test_relative_limits_follow_the_baseline():
    budget = parse_budget(["latency=50%", "size=10MB"])
    assert budget.absolute({"latency": 80.0, "size": 4e7}) == {"latency": 40.0, "size": 1e7}


@pytest.mark.parametrize("text", ["94", "0%", "101%", "-3%", "most"])
def test_share_refuses(text):
    with pytest.raises(UserError):
        parse_share(text)


def test_share_reads():
    assert parse_share("94%") == 0.94
