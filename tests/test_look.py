from __future__ import annotations

from dataclasses import replace

from test_markdown import ASCII, CODES, COLOURED, PLAIN

from runtime_stub.chat.look import Look

FACE = {
    "greeting": "Hello.\nWhat can I do?",
    "starters": ["Why is the sky blue?", "How " * 12 + "?"],
    "icon": "🩺",
    "accent": "#2f6f4e",
}


def heading(look: Look, width: int = 40) -> list[str]:
    return [CODES.sub("", line) for line in look.heading(COLOURED, width)]


def test_heading() -> None:
    assert heading(Look.of("Clinic", FACE)) == [
        "🩺 Clinic",
        "Hello.",
        "What can I do?",
        "",
        "• Why is the sky blue?",
        "• How How How How How How How How How",
        "  How How How ?",
        "",
    ]
    assert heading(Look.of("Clinic", {})) == ["Clinic", ""]


def test_colours_that_the_terminal_has() -> None:
    look = Look.of("Clinic", FACE)
    assert look.colour(COLOURED) == "\x1b[38;5;23m"
    assert look.colour(replace(COLOURED, true_colour=True)) == "\x1b[38;2;47;111;78m"
    assert look.colour(replace(COLOURED, name="linux")) == ""
    assert look.colour(PLAIN) == ""
    assert "38;" not in "".join(look.heading(PLAIN, 40))


def test_hostile_recipe_controls_nothing() -> None:
    look = Look.of("a\x1b[2J\nb", {"greeting": "\x1b]0;x\x07hi", "starters": ["q\x1b[1m\r"]})
    assert (look.name, look.greeting, look.starters) == ("a b", "hi", ("q",))


def test_pictures_and_signs_that_can_not_be_shown() -> None:
    assert Look.of("Clinic", {"icon": "data:image/png;base64,AAAA"}).title == "Clinic"
    assert "🩺" not in "".join(Look.of("Clinic", FACE).heading(ASCII, 40))


def test_placeholder_tells_of_starters_only_where_there_are_some() -> None:
    assert "Tab" in Look.of("Clinic", FACE).placeholder(80)
    assert len(Look.of("Clinic", FACE).placeholder(40)) < 38
    assert "Tab" not in Look.of("Clinic", {}).placeholder(80)
