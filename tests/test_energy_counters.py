"""Reading energy counters: a made-up powercap tree, since few machines let a user read their own."""

from pathlib import Path

from chipfit.energy import Rapl, find_counter, measured_mj


def package(root: Path, name: str, label: str, microjoules: int) -> Path:
    zone = root / name
    zone.mkdir()
    (zone / "name").write_text(f"{label}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("10000000\n")
    return zone


def test_packages_are_summed_and_their_parts_left_out(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", "package-0", 3_000_000)
    package(tmp_path, "intel-rapl:1", "package-1", 4_000_000)
    package(tmp_path, "intel-rapl:0:0", "core", 9_000_000)
    package(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    counter = find_counter("cpu", tmp_path)
    assert counter is not None
    assert counter.read() == 7000.0


def test_a_counter_that_starts_anew_is_no_gain(tmp_path: Path) -> None:
    counter = Rapl((package(tmp_path, "intel-rapl:0", "package-0", 0),))
    assert counter.between(200.0, 500.0) == 300.0
    assert counter.between(9_900.0, 100.0) == 200.0


def test_nothing_is_read_where_nothing_counts(tmp_path: Path) -> None:
    assert find_counter("cpu", tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert find_counter("cpu", tmp_path) is None
    assert find_counter("npu", tmp_path) is None


def test_a_calls_energy_is_the_mean_of_many(tmp_path: Path) -> None:
    zone = package(tmp_path, "intel-rapl:0", "package-0", 0)

    def call() -> None:
        spent = int((zone / "energy_uj").read_text())
        (zone / "energy_uj").write_text(str(spent + 2000))

    counter = find_counter("cpu", tmp_path)
    assert counter is not None
    assert measured_mj(counter, call, seconds=0.01) == 2.0
