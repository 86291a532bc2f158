"""The colours of charts, light and dark: after Okabe and Ito's palette for the colour-blind, each
moved until it has a contrast of 3 to 1 or more with its paper."""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff", "ink": "#1b1e23", "dim": "#5b626c", "grid": "#e7e9ec", "axis": "#9aa1ab",
    "s0": "#0067a8", "s1": "#c8500a", "s2": "#00805d", "s3": "#a3478a", "s4": "#2f8fc4",
    "s5": "#a87400", "s6": "#4a4f57", "front": "#8a919b", "control": "#6b727c",
}  # fmt: skip
DARK = {
    "paper": "#15181c", "ink": "#e7e9ed", "dim": "#a2a9b4", "grid": "#2a2f36", "axis": "#6d7580",
    "s0": "#4aa8e8", "s1": "#ff9152", "s2": "#37c79b", "s3": "#e08fc6", "s4": "#93d3f7",
    "s5": "#eabb45", "s6": "#c3c9d2", "front": "#7b838e", "control": "#98a0ab",
}  # fmt: skip
SERIES = ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "front", "control")


def variables(colours: dict[str, str]) -> str:
    """The colours as custom properties of a page."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def stylesheet(colours: dict[str, str] | None = None) -> str:
    """How charts look: with `colours` written out, for a file; else with a page's variables."""

    def c(name: str) -> str:
        return f"var(--{name})" if colours is None else colours[name]

    rules = [
        f".chart text{{fill:{c('ink')}}}.chart .tick,.chart .name,.chart .key{{fill:{c('dim')}}}",
        ".chart .title{font-size:13px;font-weight:600}",
        f".chart .paper{{fill:{c('paper')}}}",
        f".chart .grid{{stroke:{c('grid')};fill:none}}.chart .axis{{stroke:{c('axis')};fill:none}}",
        ".chart .line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}",
        ".chart .hollow{fill:none}.chart .front .line{stroke-width:1.2}",
        f".chart .ring circle{{fill:none;stroke:{c('ink')};stroke-width:1.2}}",
        f".chart .ring text{{font-weight:600;paint-order:stroke;stroke:{c('paper')};"
        "stroke-width:3px;stroke-linejoin:round}",
    ]
    rules += [
        f".chart .{name} .line{{stroke:{c(name)}}}"
        f".chart .{name} .mark *{{fill:{c(name)};stroke:{c('paper')};stroke-width:.8}}"
        f".chart .{name} .mark .hollow{{fill:{c('paper')};stroke:{c(name)};stroke-width:1.5}}"
        for name in SERIES
    ]
    return "".join(rules)
