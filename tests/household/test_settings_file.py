"""The file of settings of several sources: what it may hold, and errors that name the line."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.media_files import Track, write_video

from edge_interleave.errors import InputError
from edge_interleave.household.settings import AlertSettings, AskSettings
from edge_interleave.household.settings_file import read_settings
from edge_interleave.household.toml_lines import lines_of

WHOLE = """\
# Two cameras.
[model]
threads = 2
memory = "2GB"

[sources.door]
source = "rtsp://me:${DOOR}@127.0.0.1/door"
window = 4
pool = [1, 4]
before = "10s"
exec = "echo {question}"
webhook = "${file:hook}"

[[sources.door.rules]]
name = "person"
when = "Is there a person?"
above = 0.9
for = 2
below = 0.4
cooldown = "1m"
describe = "What is the person doing?"

[[sources.door.rules]]
ask = '''
What is
happening?'''
every = 30

[sources.yard]
source = "yard.avi"
rules = [{ when = "Is there a cat?" }]
"""


def written(folder: Path, text: str) -> Path:
    write_video(folder / "yard.avi", Track(range(2)))
    (folder / "hook").write_text("http://127.0.0.1/secret\n")
    path = folder / "cameras.toml"
    path.write_text(text)
    return path


def error_of(folder: Path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_settings(written(folder, text), {"DOOR": "p@ss/word"})
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{folder}/", "")


def test_all_settings_are_read(tmp_path: Path) -> None:
    found = read_settings(written(tmp_path, WHOLE), {"DOOR": "p@ss/word"})
    assert (found.model.threads, found.model.memory) == (2, "2GB")
    door, yard = found.sources
    # A secret inside an address is percent-encoded; one that is the whole value is not.
    assert door.source == "rtsp://me:p%40ss%2Fword@127.0.0.1/door"
    assert door.webhook == "http://127.0.0.1/secret"
    assert "p%40ss" not in repr(found)
    assert "secret" not in repr(found)
    assert (door.window, door.pool, door.before_s, door.out) == (
        4, (1, 4), 10.0, tmp_path / "edge-interleave-events" / "door",
    )  # fmt: skip
    person, happening = door.rules
    assert isinstance(person, AlertSettings)
    assert (person.name, person.rule.above, person.rule.checks, person.rule.cooldown_s) == ("person", 0.9, 2, 60)
    assert person.describe == "What is the person doing?"
    assert isinstance(happening, AskSettings)
    assert (happening.name, happening.question, happening.every_s) == ("rule-2", "What is\nhappening?", 30)
    assert (yard.source, yard.window, yard.rule_names) == (str(tmp_path / "yard.avi"), None, ("rule-1",))


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("window = 4", "widow = 4", "cameras.toml:8: 'widow' is not a setting here; did you mean 'window'?"),
        ("[model]", "[modal]", "cameras.toml:2: 'modal' is not a setting here; did you mean 'model'?"),
        ("window = 4", "window = 0", "cameras.toml:8: 'window' must be a whole number from 1 to 1024, not 0"),
        ("window = 4", "window = true", "cameras.toml:8: 'window' must be a whole number"),
        ("pool = [1, 4]", "pool = [\n1,\n0]", "cameras.toml:9: 'pool' must be a whole number from 1, or a list"),
        ('before = "10s"', 'before = "2h"', "cameras.toml:10: 'before' must be a duration"),
        ('exec = "echo', 'exec = "no-such-program', "cameras.toml:11: no program 'no-such-program'"),
        ("${file:hook}", "${file:nothing}", "cameras.toml:12: nothing: No such file"),
        ("${file:hook}", "ftp://x", "cameras.toml:12: a webhook must be an http"),
        ("${DOOR}", "${GARAGE}", "cameras.toml:7: the environment has no variable GARAGE"),
        ("rtsp://me", "gopher://me", "cameras.toml:7: gopher://127.0.0.1/door: gopher cannot be watched"),
        ("below = 0.4", "below = 0.95", "cameras.toml:19: 'below' must be from 0 to 'above' (0.9)"),
        ("above = 0.9", "above = 2", "cameras.toml:17: 'above' must be a number from 0 to 1, not 2"),
        ("above = 0.9", "max_tokens = 3", "cameras.toml:17: 'max_tokens' does not go with 'when'"),
        ('name = "person"', 'name = "a/b"', "cameras.toml:15: 'a/b' is no name"),
        ("[sources.yard]", '[sources."a\\nb"]', "cameras.toml:29: 'a\\nb' is no name"),
        ("every = 30", "every = 30\nname = 'person'", "cameras.toml:28: two rules are called 'person'"),
        ("every = 30", "every = 'soon'", "cameras.toml:27: 'every' must be a duration"),
        ("when = \"Is there a person?\"\n", "", "cameras.toml:14: a rule needs either 'when'"),
        ("yard.avi", "yard.mp4", "cameras.toml:30: yard.mp4: no such file or folder"),
        ("rules = [{ when = \"Is there a cat?\" }]\n", "", "cameras.toml:29: 'yard' has no rule"),
        ("rules = [{ when", "rules = [{ whens", "cameras.toml:31: 'whens' is not a setting here; did you mean 'when'?"),
        ("{ when = \"Is there a cat?\" }", "3", "cameras.toml:31: 'rules' must be an array of tables"),
        ('"yard.avi"', '"yard.avi"\nout = "edge-interleave-events/door"', "cameras.toml:31: 'door' has the same"),
        ("threads = 2", "threads = = 2", "cameras.toml:3: not valid TOML: Invalid value"),
        ("threads = 2", "threads = 2\nthreads = 3", "cameras.toml:4: not valid TOML: Cannot overwrite a value"),
        ("2GB", "2 cups", "cameras.toml:4: '2 cups' is not an amount of memory"),
    ],
)  # fmt: skip
def test_an_error_names_the_line(tmp_path: Path, before: str, after: str, error: str) -> None:
    assert WHOLE.count(before) >= 1
    assert error_of(tmp_path, WHOLE.replace(before, after, 1)).startswith(error)


def test_a_file_without_sources_or_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path, "").startswith("cameras.toml: no source to watch; add one: [sources.door]")
    path = tmp_path / "cameras.toml"
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(InputError, match=r"cameras.toml:2: not UTF-8"):
        read_settings(path)
    with pytest.raises(InputError, match=r"nothing.toml: No such file"):
        read_settings(tmp_path / "nothing.toml")


def test_lines_of_values_in_all_forms_of_toml() -> None:
    lines = lines_of(
        'a.b = 1 # [x]\n"c d" = """\n[no.header]\nx = 1\n"""\n[t."q.r"]\n\nlist = [\n  { k = 1 },\n  2,\n]\n'
        "[[t.many]]\nn = 1\n[t.many.inner]\nm = 2\n[[t.many]]\nn = 3\n[[t.many.deep]]\no = 4\n"
    )
    assert lines[("a", "b")] == 1
    assert lines[("c d",)] == 2
    assert lines[("t", "q.r")] == 6
    assert lines[("t", "q.r", "list", 0, "k")] == 8
    assert lines[("t", "many", 0, "n")] == 13
    assert lines[("t", "many", 0, "inner", "m")] == 15
    assert lines[("t", "many", 1, "n")] == 17
    assert lines[("t", "many", 1, "deep", 0, "o")] == 19
    assert ("no", "header") not in lines


VALUES = st.sampled_from(
    ["", "1", "-1", "0.5", "nan", "inf", "true", '""', '"x"', '"1s"', "[]", "[1]", '["x"]', "{}", "{ a = 1 }", "[{}]",
     "1979-05-27", "9223372036854775807", '"${HOME}"', '"${file:/}"', '"\\u0000"', "[[", "'", '"\U0001F600"']
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), VALUES), min_size=1, max_size=3))
def test_any_value_gives_settings_or_one_line(changes: list[tuple[int, str]]) -> None:
    lines = WHOLE.split("\n")
    for place, value in changes:
        key, equals, _ = lines[place % len(lines)].partition(" = ")
        lines[place % len(lines)] = f"{key} = {value}" if equals else value
    with tempfile.TemporaryDirectory() as name:
        path = written(Path(name), "\n".join(lines))
        try:
            read_settings(path, {"DOOR": "x", "HOME": "/"})
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
