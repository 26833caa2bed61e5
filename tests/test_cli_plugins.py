"""The command line: `needle plugins`, and the group that finds commands."""

from __future__ import annotations

import json

import pytest

import needle_core
from tests.plugin_fixtures import HEAD, Site, site

__all__ = ["site"]

pytestmark = pytest.mark.once

HOST = (
    HEAD
    + """
from needle_core.backend import Backend

class Host(Backend):
    name, host, priority = "hosting", True, 1000
    def devices(self): return [self.name]
    def from_numpy(self, array, device): return array
    def to_numpy(self, buffer): return buffer
    def empty(self, shape, dtype, device): raise NotImplementedError

@hookimpl
def needle_register_backends(registrar):
    registrar.backend(Host)
"""
)


@pytest.fixture
def needle(site: Site):
    """A function that runs `needle` with arguments: exit status, standard output, standard error."""

    def run(*args: str, **environment: str) -> tuple[int, str, str]:
        code = f"import sys; sys.argv = {['needle', *args]!r}; from needle_core.cli import main; main()"
        done = site.python(code, **{"COLUMNS": "200", **environment})
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def installed(site: Site) -> None:
    """A host backend, a plugin that is broken, and one with an optimizer."""
    site.install("needle-hosting", {"backends": {"hosting": "needle_hosting"}}, HOST, version="1.5")
    site.install("needle-broken", {"ops": {"bang": "needle_broken"}}, "raise RuntimeError('boom')", version="0.3")
    site.install("needle-lazy", {"optimizers": {"Lazy": "needle_lazy"}}, HEAD)


def test_list_shows_offers_states_and_the_default_device(needle, installed: None) -> None:
    status, out, err = needle("plugins")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line.strip()}
    assert rows["needle-hosting"] == "needle-hosting 1.5 backends: hosting active"
    assert rows["needle-broken"] == "needle-broken 0.3 ops: bang not loaded yet"
    assert rows["needle-lazy"] == "needle-lazy 1.0 optimizers: Lazy not loaded yet"
    assert rows["default"].startswith("default device: hosting, the host backend of highest priority")


def test_list_load_tells_what_is_wrong_and_what_to_type(needle, installed: None) -> None:
    _, out, _ = needle("plugins", "list", "--load")
    row = next(" ".join(line.split()) for line in out.splitlines() if line.startswith("needle-broken"))
    assert row == "needle-broken 0.3 ops: bang broken import: RuntimeError: boom needle plugins why needle-broken"


def test_list_as_json(needle, installed: None) -> None:
    status, out, err = needle("plugins", "--json", "--load")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["default_device"]["name"] == "hosting"
    broken = next(p for p in told["plugins"] if p["distribution"] == "needle-broken")
    assert broken.pop("traceback")[-1] == "RuntimeError: boom\n"
    assert broken == {
        "distribution": "needle-broken",
        "version": "0.3",
        "module": "needle_broken",
        "offers": {"ops": ["bang"]},
        "state": "broken",
        "phase": "import",
        "reason": "RuntimeError: boom",
        "command": "needle plugins why needle-broken",
    }


def test_why_shows_the_traceback(needle, installed: None) -> None:
    status, out, err = needle("plugins", "why", "bang")
    assert (status, err) == (0, "")
    assert out.startswith("needle-broken 0.3: broken\n  module: needle_broken\n  offers: ops: bang\n  phase: import\n")
    assert "needle_broken.py" in out
    assert out.endswith("RuntimeError: boom\n")


def test_why_as_json(needle, installed: None) -> None:
    _, out, _ = needle("plugins", "why", "hosting", "--json")
    assert [(s["distribution"], s["state"], s["traceback"]) for s in json.loads(out)] == [("needle-hosting", "active", None)]


def test_why_opens_backends_and_tells_what_keeps_one_from_it(needle, site: Site) -> None:
    source = HOST.replace("def devices", "def __init__(self): raise OSError('no driver')\n    def devices").replace(
        "True", "False"
    )
    site.install("needle-hosting", {"backends": {"hosting": "needle_hosting"}}, source, version="1.5")
    status, out, err = needle("plugins", "why", "hosting")
    assert (status, err) == (0, "")
    assert out.startswith(
        "needle-hosting 1.5: unavailable\n  module: needle_hosting\n  offers: backends: hosting\n  phase: open hosting\n"
        "  reason: OSError: no driver\n  next: needle doctor\n"
    )
    assert out.endswith("OSError: no driver\n")
    (told,) = json.loads(needle("plugins", "why", "hosting", "--json")[1])
    assert (told["state"], told["phase"], told["reason"]) == ("unavailable", "open hosting", "OSError: no driver")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("needle_api = 2", "  next: pip install --upgrade needle-core\n"),
        ("", "  for its author: needle_api = 1\n"),
        ("import needle_hosting_gone", None),
    ],
    ids=["remedy of the user", "remedy of the author", "none is known"],
)
def test_why_tells_the_remedy(needle, site: Site, source: str, line: str | None) -> None:
    site.install("needle-broken", {"ops": {"bang": "needle_broken"}}, source)
    _, out, _ = needle("plugins", "why", "needle-broken")
    assert line in out if line is not None else "next" not in out and "for its author" not in out


def test_warning_is_one_line_without_a_place_in_the_code(needle, installed: None, site: Site) -> None:
    site.install("needle-bad", {"backends": {"bad": "needle_bad"}}, "raise RuntimeError('boom')", version="0.1")
    code = "import sys, needle_core.cli as cli, click\n"
    code += "@click.command()\ndef probe():\n    import needle_core as ndl; ndl.default_device(); print('{}')\n"
    code += "cli.needle.get_command = lambda ctx, name: probe\nsys.argv = ['needle', 'probe']\ncli.main()"
    done = site.python(code)
    assert (done.returncode, done.stdout) == (0, "{}\n")
    assert done.stderr == (
        "warning: not considered as the default device: needle-bad 0.1: import: RuntimeError: boom; "
        "hint: `needle plugins why needle-bad`\n"
    )


def test_version_is_that_of_the_core(needle) -> None:
    assert needle("--version") == (0, f"needle {needle_core.__version__}\n", "")


def test_error_is_one_message_without_a_traceback(needle) -> None:
    status, out, err = needle("plugins", "why", "nobody")
    assert (status, out) == (1, "")
    assert err == "error: no installed plugin is called 'nobody'\n  hint: `needle plugins` lists what is installed\n"


def test_error_has_a_traceback_when_wanted(needle) -> None:
    status, _, err = needle("plugins", "why", "nobody", NEEDLE_TRACEBACK="1")
    assert status == 1
    assert "Traceback" in err


def test_nothing_selected_is_told(needle, installed: None) -> None:
    status, out, _ = needle("plugins", NEEDLE_PLUGINS="none")
    assert status == 0
    assert "blocked" in out
    assert "NEEDLE_PLUGINS=none" in out
    assert "default device: none, no host backend is installed" in out


def test_strict_mode_does_not_keep_the_list_from_being_shown(needle, installed: None) -> None:
    status, out, _ = needle("plugins", NEEDLE_STRICT="1", NEEDLE_PLUGINS="hosting,bang")
    assert status == 0
    assert "default device: none, needle-broken 0.3: import: RuntimeError: boom" in out


def test_help_lists_commands_without_importing_them(site: Site) -> None:
    done = site.python("""
        import sys
        sys.argv = ["needle", "--help"]
        from needle_core.cli import main
        try:
            main()
        finally:
            print([m for m in ("needle_core.cli.plugins", "rich", "pluggy") if m in sys.modules])
    """)
    assert done.returncode == 0
    assert "plugins  Show installed plugins and the default device." in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("args", [["--help"], ["list", "--help"], ["why", "--help"]])
def test_plugins_has_help(needle, args: list[str]) -> None:
    status, out, _ = needle("plugins", *args)
    assert status == 0
    assert out.startswith("Usage: needle plugins")


def test_unknown_command_is_a_usage_error(needle) -> None:
    status, _, err = needle("nonsense")
    assert status == 2
    assert "No such command 'nonsense'" in err


def test_list_is_not_cut_where_there_is_no_terminal(needle, installed: None) -> None:
    status, out, _ = needle("plugins", "list", "--load", NEEDLE_PLUGINS="hosting", COLUMNS="40")
    assert status == 0
    (row,) = [" ".join(line.split()) for line in out.splitlines() if line.startswith("needle-lazy")]
    assert row.endswith("blocked selection: NEEDLE_PLUGINS=hosting unset NEEDLE_PLUGINS")
