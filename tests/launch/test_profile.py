"""Tests of cluster profiles: values, overrides and error messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoseg.config.fields import build, to_plain
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.errors import UsageError
from protoseg.launch.profile.options import NEXT_STAGE_OPTIONS, RESERVED_OPTIONS
from protoseg.launch.profile.profile import ClusterProfile, list_profiles, load_profile
from protoseg.launch.profile.resources import Resources
from protoseg.launch.profile.values import (
    LONGEST_SECONDS,
    check_text,
    format_memory,
    format_time,
    multiply_memory,
    parse_memory,
    parse_time,
)
from protoseg.runs.states import Reason

SLURM = Path(__file__).resolve().parents[2] / "slurm"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A profile folder with a space in its name."""
    folder = tmp_path / "my clusters"
    folder.mkdir()
    return folder


def load(folder: Path, text: str, *overrides: str) -> ClusterProfile:
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    return load_profile(ConfigFolders(folder), "site", overrides)


def load_error(folder: Path, text: str, *overrides: str) -> str:
    """Return the error message of a profile, which is one line."""
    with pytest.raises(UsageError) as caught:
        load(folder, text, *overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Profiles of the repository.


@pytest.mark.parametrize("name", list_profiles(ConfigFolders(SLURM)))
def test_every_profile_of_the_repository_loads_and_has_a_comment(name: str) -> None:
    profile = load_profile(ConfigFolders(SLURM), name)
    assert profile.name == name
    assert (SLURM / f"{name}.yaml").read_text().startswith("# ")
    assert build(ClusterProfile, to_plain(profile), "again: ") == profile


def test_the_repository_has_the_documented_profiles() -> None:
    assert list_profiles(ConfigFolders(SLURM)) == ["eight_gpus", "one_h200", "testbed"]


def test_eight_gpus_gives_one_gpu_to_small_batches() -> None:
    profile = load_profile(ConfigFolders(SLURM), "eight_gpus")
    big: dict[str, Any] = {"dataset": {"name": "camvid"}, "schedule": {"batch_size": 16}}
    small = {"dataset": {"name": "camvid"}, "schedule": {"batch_size": 4}}
    shapes = {"dataset": {"name": "shapes"}, "schedule": {"batch_size": 4}}
    assert profile.resources(big).processes_total == 8
    assert profile.resources(big).time == "1-00:00:00"
    assert (profile.resources(small).gpus, profile.resources(small).memory) == (1, "60G")
    assert profile.resources(shapes).memory == "16G", "the first matching rule applies"


def test_runs_on_the_testbed_use_the_cpu() -> None:
    resources = load_profile(ConfigFolders(SLURM), "testbed").resources({})
    assert (resources.gpus, resources.processes_total, resources.cpus) == (0, 1, 1)
    assert resources.seconds == 1800


# Time limits.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("10:30", 630),
        ("90:00", 5400),
        ("2:00:00", 7200),
        ("00:10:30", 630),
        ("36:00:00", 36 * 3600),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("1-12:00:00", 36 * 3600),
        ("0-0:0:1", 1),
        ("1000-0", LONGEST_SECONDS),
    ],
)
def test_parse_time_accepts_slurms_forms(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(630, "0:10:30"), (7200, "2:00:00"), (129600, "1-12:00:00"), (86399, "23:59:59")],
)
def test_format_time_uses_slurms_form(seconds: int, text: str) -> None:
    assert format_time(seconds) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "0:00", "-1", "1h", "1:2:3:4", "1-", "-12", "1-2-3", "10:30 ", " 10", "1.5"),
        *("10:30\n", "UNLIMITED", "1001-0", "٣", "1:", ":30", "99999999999", "1e3", "1-1:1:1:1"),
    ],
)
def test_parse_time_rejects_other_text(text: str) -> None:
    with pytest.raises(UsageError, match="Allowed: "):
        parse_time(text)


small = st.integers(0, 90)


@given(days=small, hours=small, minutes=small, seconds=small)
def test_parse_time_gives_the_seconds_of_every_form(
    days: int, hours: int, minutes: int, seconds: int
) -> None:
    forms = {
        f"{minutes}": 60 * minutes,
        f"{minutes}:{seconds:02d}": 60 * minutes + seconds,
        f"{hours}:{minutes:02d}:{seconds}": 3600 * hours + 60 * minutes + seconds,
        f"{days}-{hours}": 86400 * days + 3600 * hours,
        f"{days}-{hours:02d}:{minutes}": 86400 * days + 3600 * hours + 60 * minutes,
        f"{days}-{hours}:{minutes}:{seconds}": (
            86400 * days + 3600 * hours + 60 * minutes + seconds
        ),
    }
    for text, expected in forms.items():
        if expected:
            assert parse_time(text) == expected
            assert parse_time(format_time(expected)) == expected


@given(st.integers(1, LONGEST_SECONDS))
def test_format_time_keeps_the_seconds(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


@given(st.text(max_size=12) | st.text("0123456789:-", max_size=12))
def test_parse_time_accepts_or_rejects_any_text(text: str) -> None:
    try:
        seconds = parse_time(text)
    except UsageError:
        return
    assert 0 < seconds <= LONGEST_SECONDS
    assert set(text) <= set("0123456789:-")


@pytest.mark.parametrize(
    ("written", "made"),
    [("10:30", 630), ("2:00:00", 7200), ("90", 90), ("1:30.5", 90.5), ("null", None)],
)
def test_a_time_that_yaml_reads_as_a_number_is_an_error(
    site: Path, written: str, made: Any
) -> None:
    sentence = (
        f"time: expected text in quotes, found {made!r} (YAML reads 10:30 without quotes as 630). "
        'Allowed: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S, e.g. "10:30".'
    )
    assert load_error(site, f"time: {written}") == f"cluster site: {sentence}"
    rule = f"rules: [{{when: {{seed: 1}}, time: {written}}}]"
    assert load_error(site, rule) == f"cluster site: rules[0]: {sentence}"


@pytest.mark.parametrize("written", ["1-12", "1-12:00:00", "0:30:00", '"10:30"', "'90'"])
def test_a_time_that_yaml_reads_as_text_is_accepted(site: Path, written: str) -> None:
    text = written.strip("'\"")
    assert load(site, f"time: {written}").seconds == parse_time(text)


@pytest.mark.parametrize("text", ["10:30", "1-12:00:00", "2:00:00", "90", "1-12", "'10:30'"])
def test_a_time_on_the_command_line_is_used_as_typed(site: Path, text: str) -> None:
    profile = load(site, "time: '1:00:00'", f"cluster.time={text}")
    assert profile.seconds == parse_time(text.strip("'"))


# Memory.


@pytest.mark.parametrize(
    ("text", "kept"),
    [("16G", "16G"), ("16GB", "16G"), ("2048", "2G"), ("1536m", "1536M"), ("1T", "1T"), ("0", "0")],
)
def test_memory_is_normalised(site: Path, text: str, kept: str) -> None:
    assert load(site, f"memory: '{text}'").resources({}).memory == kept


@given(st.integers(0, 1000), st.sampled_from("KMGT"))
def test_format_memory_keeps_the_amount(number: int, unit: str) -> None:
    assert parse_memory(format_memory(parse_memory(f"{number}{unit}"))) == parse_memory(
        f"{number}{unit}"
    )


@given(st.integers(1, 15), st.sampled_from("KMGT"), st.floats(1.01, 64))
def test_multiply_memory_rounds_up(number: int, unit: str, factor: float) -> None:
    before, after = (
        parse_memory(f"{number}{unit}"),
        parse_memory(multiply_memory(f"{number}{unit}", factor)),
    )
    assert before * factor * (1 - 1e-9) <= after <= before * factor + 1024


def test_multiply_memory_keeps_unset_amounts() -> None:
    assert multiply_memory("", 2) == ""
    assert multiply_memory("0", 2) == "0"
    assert multiply_memory("16G", 1.5) == "24G"


# Composition of a profile.


def test_a_profile_extends_another_one(site: Path) -> None:
    (site / "base.yaml").write_text("partition: a\nqos: q\nenvironment: {A: '1', B: '2'}\n")
    text = "defaults: [base, _self_]\npartition: b\nenvironment: {B: '3'}\n"
    profile = load(site, text)
    assert (profile.partition, profile.qos, profile.name) == ("b", "q", "site")
    assert profile.environment == {"A": "1", "B": "3"}


def test_the_command_line_overrides_a_profile(site: Path) -> None:
    profile = load(
        site,
        "partition: a\nqos: q\nmodules: [x]\n",
        *("cluster.partition=b,c", "cluster.modules=[cuda/12.4,gcc]", "cluster.requeue=false"),
        *("cluster.constraint=[a100|h100]&ssd", "+cluster.sbatch.exclusive=true", "~cluster.qos"),
        *("cluster.sbatch.nice=100", "cluster.environment.A=1e3", "cluster.environment.B=$(id)"),
        *("cluster.environment.C='x y'", "cluster.retries.lost=null", "cluster.gpus=4"),
        "cluster.rules=[{when:{seed:1},gpus:2}]",
    )
    assert (profile.partition, profile.modules, profile.qos) == ("b,c", ("cuda/12.4", "gcc"), "")
    assert (profile.requeue, profile.constraint) == (False, "[a100|h100]&ssd")
    assert profile.sbatch == {"exclusive": True, "nice": "100"}
    assert profile.environment == {"A": "1e3", "B": "$(id)", "C": "x y"}
    assert profile.retries == {"lost": None}
    assert profile.resources({"seed": 1}).gpus == 2
    assert profile.resources({"seed": 0}).gpus == 4


def test_interpolations_are_resolved(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ACCOUNT", "lab")
    assert load(site, "account: ${oc.env:MY_ACCOUNT}").account == "lab"
    monkeypatch.setenv("MY_ACCOUNT", "lab; rm -r x")
    assert "account: 'lab; rm -r x' is not allowed here" in load_error(
        site, "account: ${oc.env:MY_ACCOUNT}"
    )


def test_equal_resources_compare_equal() -> None:
    one = Resources(gpus=2, gpu_type="a100", time="90", memory="2048M").normalised()
    other = Resources(
        gpus=2, gpu_type="a100", time="1:30:00", memory="2G", processes=2
    ).normalised()
    assert one == other
    assert hash(one) == hash(other)
    assert Resources(gpu_type="a100").normalised() == Resources().normalised()


def test_resources_as_text() -> None:
    assert str(Resources()) == "1 core; 1:00:00"
    several = Resources(nodes=2, gpus=8, gpu_type="h100", cpus=4, memory="0", time="1-0")
    assert str(several) == "2 nodes, each 8 h100 GPUs, 32 cores, all its memory; 1-00:00:00"


# Error messages.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin: a", "unknown key 'partitoin'. Did you mean 'partition'? Known: account, "),
        ("name: a", "unknown key 'name'. Did you mean '"),
        ("memory: 1001T", "memory: '1001T' is out of range. Allowed: at most 1000T."),
        (
            "time: '10.5'",
            "time: '10.5' is not a time limit. Allowed: minutes, M:S, H:M:S, D-H, D-H:",
        ),
        ("time: '0'", "time: '0' is out of range. Allowed: more than 0, at most 1,000 days."),
        ("time: '2'", "signal_seconds: 120 s is not below the time limit of 0:02:00"),
        ("rules: [{when: {seed: 1}, time: '1'}]", "signal_seconds: 120 s is not below the time l"),
        ("memory: 16", "memory: expected text in quotes, found 16."),
        ("memory: lots", "memory: 'lots' is not an amount of memory. Allowed: a whole number"),
        ("memory: 1.5G", "memory: '1.5G' is not an amount of memory. Allowed: a whole number"),
        ("nodes: 0", "nodes: 0 is out of range; allowed: at least 1 and at most 100000."),
        ("gpus: -1", "gpus: -1 is out of range; allowed: at least 0 and at most 100000."),
        ("gpus: '2'", "gpus: expected a whole number, found '2'."),
        ("cpus: 0", "cpus: 0 is out of range; allowed: at least 1"),
        ("gpus: 2\nprocesses: 3", "processes: 3 processes on 2 GPUs of a node. Allowed: at most"),
        ("partition: a b", "partition: 'a b' is not allowed here. Allowed: letters, digits and _"),
        ("partition: -x", "partition: '-x' is not allowed here. Allowed: "),
        ("account: 'a,b'", "account: 'a,b' is not allowed here. Allowed: "),
        ('qos: "a\'b"', 'qos: "a\'b" is not allowed here. Allowed: '),
        ("reservation: 'a$(id)'", "reservation: 'a$(id)' is not allowed here. Allowed: "),
        ("gpu_type: 'a:8'", "gpu_type: 'a:8' is not allowed here. Allowed: "),
        ("constraint: 'a b'", "constraint: 'a b' is not allowed here. Allowed: names of features"),
        ("modules: cuda", "modules: expected a list, found 'cuda'."),
        ("modules: [1.2]", "modules[0]: expected text in quotes, found 1.2."),
        ("modules: ['a;b']", "modules[0]: 'a;b' is not allowed here. Allowed: "),
        ("modules: [a, --force]", "modules[1]: '--force' is not allowed here. Allowed: "),
        ("environment: {A: 4}", "environment.A: expected text in quotes, found 4."),
        ("environment: {A: no}", "environment.A: expected text in quotes, found False."),
        ("environment: {'A B': x}", "environment.A B: 'A B' is not allowed here. Allowed: letters"),
        ("environment: {'A=1; B': x}", "environment.A=1; B: 'A=1; B' is not allowed here. Allow"),
        ("environment: {SLURM_JOB_ID: x}", "environment.SLURM_JOB_ID: only SLURM may set this"),
        ("environment: {UID: x}", "environment.UID: only the shell may set this variable"),
        ("sbatch: {array: 0-3}", "sbatch.array: '--array' is set by protoseg itself. Remove"),
        ("sbatch: {arr: 0-3}", "sbatch.arr: '--array' is set by protoseg itself. Remove it"),
        ("sbatch: {mem: 3G}", "sbatch.mem: '--mem' is set by the profile's key 'memory'."),
        ("sbatch: {J: x}", "sbatch.J: 'J' is not allowed here. Allowed: a long option of sbatch"),
        ("sbatch: {--exclusive: x}", "sbatch.--exclusive: '--exclusive' is not allowed here"),
        ("sbatch: {'nice=1 --x': x}", "sbatch.nice=1 --x: 'nice=1 --x' is not allowed here"),
        ("sbatch: {exclusive: false}", "sbatch.exclusive: found False. Allowed: text, a number,"),
        ("sbatch: {exclude: [a, b]}", "sbatch.exclude: found ['a', 'b']. Allowed: text, a"),
        ("next_stage: 1", "next_stage: expected true or false, found 1."),
        ("next_stage_sbatch: {array: 0-3}", "next_stage_sbatch.array: '--array' is set by protos"),
        ("next_stage_sbatch: {depend: x}", "next_stage_sbatch.depend: '--dependency' is set by p"),
        ("next_stage_sbatch: {signal: x}", "next_stage_sbatch.signal: '--signal' is set by the p"),
        (
            "next_stage_sbatch: {part: cpu}",
            "next_stage_sbatch.part: abbreviates '--partition'. Allowed: long names of options.",
        ),
        ("next_stage_sbatch: {mem: [1]}", "next_stage_sbatch.mem: found [1]. Allowed: text, a nu"),
        ("next_stage_sbatch: {time: 10:30}", "next_stage_sbatch.time: YAML reads 10:30 witho"),
        ("retries: {lst: 3}", "retries: unknown reason 'lst'. Did you mean 'lost'? Known: bad_con"),
        ("retries: {lost: -1}", "retries.lost: -1 is out of range; allowed: at least 0."),
        ("retries: {lost: many}", "retries.lost: expected a whole number, found 'many'."),
        (
            "retries: {bad_data: 1}",
            "retries.bad_data: not configurable. This error is never retried",
        ),
        (
            "retries: {code_error: null}",
            "retries.code_error: not configurable. This error is never",
        ),
        ("memory_escalation: 2", "memory_escalation: multiplies 'memory', which is not set to an"),
        ("memory: '0'\nmemory_escalation: 2", "memory_escalation: multiplies 'memory', which is "),
        ("memory: 1G\nmemory_escalation: 1", "memory_escalation: 1 does not raise the memory."),
        ("throttle: -1", "throttle: -1 is out of range; allowed: at least 0."),
        ("array_size: 0", "array_size: 0 is out of range; allowed: at least 1."),
        ("signal_seconds: 0", "signal_seconds: 0 is out of range; allowed: at least 1 and at mos"),
        ("requeue: 1", "requeue: expected true or false, found 1."),
        ("rules: {when: {seed: 1}}", "rules: expected a list, found {'when': {'seed': 1}}."),
        ("rules: [{gpus: 1}]", "rules[0]: 'when' is None. Allowed: at least one key of a spec"),
        ("rules: [{when: {seed: 1}}]", "rules[0]: sets no resources. Add the resources"),
        ("rules: [{when: {seed: 1}, gpu: 1}]", "rules[0]: unknown key 'gpu'. Did you mean 'gpus'"),
        ("rules: [{when: {seed: 1}, cpus: 0}]", "rules[0]: cpus: 0 is out of range; allowed: at "),
        (
            "rules: [{when: {seed: 1}, memory: x}]",
            "rules[0]: memory: 'x' is not an amount of memory",
        ),
        ("rules: [{when: {sed: 1}, cpus: 1}]", "rules[0]: when.sed: unknown key 'sed'. Did you m"),
        ("rules: [{when: {backbone: tiny}, cpus: 1}]", "rules[0]: when.backbone: is a group of th"),
        (
            "rules: [{when: {schedule.batch_size: '16'}, cpus: 1}]",
            "rules[0]: when.schedule.batch_size: expected a whole number, found '16'.",
        ),
        (
            "rules: [{when: {method.num_prototypes: [1, 0]}, cpus: 1}]",
            "rules[0]: when.method.num_prototypes: 0 is out of range; allowed: at least 1.",
        ),
        ("defaults: [other]", "defaults: unknown file 'other'. Known: site."),
        ("a: [", "not a readable YAML file: "),
        ("partition: ${x}", "partition: '${x}' cannot be resolved."),
    ],
)
def test_an_invalid_profile_gives_one_line(site: Path, text: str, sentence: str) -> None:
    message = load_error(site, text)
    assert sentence in message
    assert message.startswith(("cluster site: ", str(site / "site.yaml")))


@pytest.mark.parametrize("key", [key for key, owner in RESERVED_OPTIONS.items() if not owner])
def test_options_that_protoseg_sets_are_an_error(site: Path, key: str) -> None:
    assert f"sbatch.{key}: " in load_error(site, f"sbatch: {{{key}: x}}")
    assert f"sbatch.{key}: " in load_error(site, "nodes: 1", f"cluster.sbatch.{key}=x")


@pytest.mark.parametrize("key", sorted(NEXT_STAGE_OPTIONS))
def test_the_job_of_the_next_stage_may_have_other_resources(site: Path, key: str) -> None:
    text = "partition: gpu\nnext_stage_sbatch: {comment: a b}"
    profile = load(site, text, f"cluster.next_stage_sbatch.{key}=1", "cluster.next_stage=false")
    assert profile.next_stage_sbatch == {"comment": "a b", key: "1"}
    assert (profile.partition, profile.next_stage) == ("gpu", False)


def test_an_unknown_profile_error_suggests_the_nearest(site: Path) -> None:
    load(site, "")
    for name in ("sit", "../site", "site.yaml", "a b", ""):
        with pytest.raises(UsageError, match=r"unknown cluster .* Known: site\.$"):
            load_profile(ConfigFolders(site), name)
    with pytest.raises(UsageError, match="Did you mean 'site'"):
        load_profile(ConfigFolders(site), "sit")
    with pytest.raises(UsageError, match=r"Known: none\.$"):
        load_profile(ConfigFolders(site / "nowhere"), "site")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("cluster.tim=90", "cluster site: unknown key 'tim'. Did you mean 'time'?"),
        ("cluster.nodes=1,2", "override 'cluster.nodes=1,2': several values for 'nodes'"),
        ("cluster.gpus=", "cluster site: gpus: expected a whole number, found ''."),
        ("cluster.time=", "cluster site: time: '' is not a time limit. Allowed: "),
        ("cluster.time.x=1", "cluster site: time: expected text in quotes, found {'x': 1}"),
        ("cluster.partition=a;b", "cluster site: partition: 'a;b' is not allowed here"),
        ("cluster.environment.A=a\nb", "cluster site: environment.A: 'a\\nb' contains a line"),
        ("cluster.modules=[", "override 'cluster.modules=[': "),
        ("~cluster.qos", "cluster site: unknown key 'qos'. Did you mean 'nodes'? Known: nodes."),
    ],
)
def test_an_invalid_override_gives_one_line(site: Path, override: str, sentence: str) -> None:
    assert sentence in load_error(site, "nodes: 1", override)


@pytest.mark.parametrize(
    "bad", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "a\u2029b", "a\x85b", "\ud800"]
)
@pytest.mark.parametrize(
    "field",
    ["partition", "account", "qos", "reservation", "constraint", "gpu_type", "memory", "time"],
)
def test_values_with_line_ends_or_control_characters_are_an_error(field: str, bad: str) -> None:
    with pytest.raises(UsageError):
        build(ClusterProfile, {field: bad}, "test: ")


@pytest.mark.parametrize(
    "bad", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "a\u2029b", "a\x85b", "\ud800"]
)
def test_free_text_with_line_ends_or_control_characters_is_an_error(bad: str) -> None:
    with pytest.raises(UsageError, match="Allowed: one line of text"):
        check_text(bad)
    for data in ({"environment": {"A": bad}}, {"sbatch": {"comment": bad}}, {"modules": [bad]}):
        with pytest.raises(UsageError):
            build(ClusterProfile, data, "test: ")


def test_retries_rejects_permanent_reasons_and_timeout() -> None:
    for reason in Reason:
        lasting = reason in (Reason.BAD_DATA, Reason.BAD_CONFIG, Reason.CODE_ERROR, Reason.TIMEOUT)
        try:
            build(ClusterProfile, {"retries": {reason.value: 3}}, "test: ")
        except UsageError:
            assert lasting
        else:
            assert not lasting
