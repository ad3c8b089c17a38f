"""Words of messages, and commands that can be typed as they are printed."""

from types import SimpleNamespace

from faceparse import errors as wording


def test_numbers_and_nouns():
    assert [wording.counted(number, "class") for number in (1, 2000)] == ["1 class", "2,000 classes"]


def test_arguments_are_quoted_as_the_systems_shell_takes_them(monkeypatch):
    """Single quotes are no quotes to Windows' cmd."""
    monkeypatch.setattr(wording, "os", SimpleNamespace(name="posix"))
    assert wording.quoted("my data/it") == "'my data/it'"
    monkeypatch.setattr(wording, "os", SimpleNamespace(name="nt"))
    assert wording.quoted(r"C:\my data\R&D") == r'"C:\my data\R&D"'
