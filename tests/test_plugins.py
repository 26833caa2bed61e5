"""Plugins: nothing is imported until wanted; what is installed, selected and reported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from needle_core.errors import ArgumentError, PluginError
from needle_core.op import OPS
from needle_core.plugins import registry
from needle_core.plugins.environment import flag
from tests.plugin_fixtures import HEAD, OP, SOUND, Site, of, site

__all__ = ["site"]

pytestmark = pytest.mark.once


# -- nothing before it is wanted ----------------------------------------------------------------------------------------


def test_importing_the_registry_imports_neither_pluggy_nor_metadata(site: Site) -> None:
    site.backend("wanted")
    done = site.python("""
        import sys
        before = set(sys.modules)
        from needle_core.plugins import registry
        print(sorted({"pluggy", "importlib.metadata", "needle_wanted_backend"} & (set(sys.modules) - before)))
    """)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_importing_the_core_reads_nothing_of_plugins(site: Site) -> None:
    site.backend("wanted")
    site.install("needle-broken", of("needle_broken", name="other"), "raise RuntimeError('boom')")
    done = site.python(f"""
        import sys
        touched = []
        sys.addaudithook(lambda event, args: touched.append(str(args[0])) if event in ("open", "import") else None)
        import needle_core
        ours = [path for path in touched if path.endswith(".dist-info") or path.startswith({str(site.folder)!r})]
        print(ours, [name for name in sys.modules if name.startswith("needle_") and name.endswith("_backend")])
    """)
    assert (done.stdout, done.stderr) == ("[] []\n", "")


def test_hookimpl_comes_from_the_package(site: Site) -> None:
    from needle_core.plugins import hookimpl, hookspecs

    assert hookimpl is hookspecs.hookimpl


def test_package_has_no_other_attributes() -> None:
    import needle_core.plugins

    with pytest.raises(AttributeError, match="has no attribute 'hookimp'"):
        _ = needle_core.plugins.hookimp


def test_names_are_listed_without_importing(site: Site) -> None:
    module = site.backend("wanted")
    assert "wanted" in registry.names("backends")
    assert module not in sys.modules


def test_find_activates_only_the_plugin_that_claims_the_name(site: Site) -> None:
    wanted, other = site.backend("wanted"), site.backend("other")
    found = registry.find("backends", "wanted")
    assert found.__module__ == wanted
    assert found.name == "wanted"
    assert other not in sys.modules


def test_find_gives_the_same_object_again(site: Site) -> None:
    site.backend("wanted")
    assert registry.find("backends", "wanted") is registry.find("backends", "wanted")


def test_unclaimed_name_is_none(site: Site) -> None:
    assert registry.find("backends", "nobody") is None


def test_entry_point_may_name_an_object(site: Site) -> None:
    source = """
    from needle_core.op import composite
    from needle_core.plugins import hookimpl

    @composite(lambda x: (x, {}))
    def wanted(x):
        return x

    class Plugin:
        needle_api = 1
        @hookimpl
        def needle_register_ops(self, registrar):
            registrar.op(wanted)

    plugin = Plugin()
    """
    site.install("needle-object", of("needle_object:plugin", group="ops"), source)
    assert registry.find("ops", "wanted") is OPS["wanted"]


def test_op_is_in_the_table_of_ops_once_found_and_leaves_with_forget(site: Site) -> None:
    site.install("needle-op", of("needle_op", group="ops"), HEAD + OP.format(name="wanted"))
    assert "wanted" not in OPS
    assert registry.find("ops", "wanted") is OPS["wanted"]
    registry.forget()
    assert "wanted" not in OPS


def test_optimizer_is_found_by_the_name_of_its_class(site: Site) -> None:
    source = """
    from needle_core.optim import Optimizer
    from needle_core.plugins import hookimpl
    needle_api = 1

    Wanted = type("Wanted", (Optimizer,), dict.fromkeys(getattr(Optimizer, "__abstractmethods__", ())))

    @hookimpl
    def needle_register_optimizers(registrar):
        registrar.optimizer(Wanted)
    """
    module = site.install("needle-opt", of("needle_opt", group="optimizers", name="Wanted"), source)
    assert registry.find("optimizers", "Wanted") is sys.modules[module].Wanted


# -- what can be wrong with what is installed -----------------------------------------------------------------------------


def test_name_claimed_twice_is_taken_from_neither_and_both_are_named(site: Site) -> None:
    first, second = site.backend("twin", "needle-first"), site.backend("twin", "needle-second")
    with pytest.raises(PluginError) as error:
        registry.find("backends", "twin")
    assert str(error.value) == (
        "needle-first 1.0 and needle-second 1.0: manifest: each claims the backend 'twin', so it is taken from neither\n"
        f"  needle-first 1.0: needle_first in {site.folder}/needle_first.py\n"
        f"  needle-second 1.0: needle_second in {site.folder}/needle_second.py\n"
        "  hint: `pip uninstall needle-first`, or NEEDLE_PLUGINS=-needle-first keeps needle-second"
    )
    assert first not in sys.modules
    assert second not in sys.modules


def test_conflict_leaves_the_other_names_of_both(site: Site) -> None:
    for letter in "ab":
        both = OP.format(name="twin") + OP.format(name=f"own_{letter}").replace(
            "registrar.op(", "registrar.op(twin); registrar.op("
        )
        module = f"needle_{letter}"
        site.install(f"needle-{letter}", {"ops": {"twin": module, f"own_{letter}": module}}, HEAD + both)
    assert registry.find("ops", "own_a") is OPS["own_a"]
    assert registry.find("ops", "own_b") is OPS["own_b"]
    assert "twin" not in OPS
    with pytest.raises(PluginError, match="each claims the op 'twin'"):
        registry.find("ops", "twin")


def test_conflict_is_settled_by_selection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backend("twin", "needle-first"), site.backend("twin", "needle-second")
    monkeypatch.setenv("NEEDLE_PLUGINS", "-needle-first")
    assert registry.find("backends", "twin").__module__ == "needle_second"


@pytest.mark.parametrize("metadata", [True, False])
def test_metadata_of_a_removed_package_is_stale(site: Site, metadata: bool) -> None:
    site.install("needle-gone", of("needle_gone"), None, metadata=metadata)
    before = [s for s in registry.report() if "wanted" in s.offers.get("backends", ())]
    assert [(s.state, s.reason) for s in before] == [("stale", "there is no module 'needle_gone'")]
    with pytest.raises(
        PluginError, match=r"import: ModuleNotFoundError: No module named 'needle_gone'(.|\n)*hint: `pip uninstall"
    ):
        registry.find("backends", "wanted")
    after = [s for s in registry.report() if "wanted" in s.offers.get("backends", ())]
    assert [s.state for s in after] == ["stale"]


def test_editable_install_listed_twice_counts_once_and_the_first_wins(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("needle-wanted", of("needle_wanted"), SOUND, version="1.0")
    source_tree = Site(tmp_path / "source_tree")
    source_tree.install("Needle_Wanted", of("needle_wanted"), None, version="2.0")
    monkeypatch.syspath_prepend(str(source_tree.folder))
    assert registry.find("backends", "wanted").name == "wanted"
    assert [s.version for s in registry.report() if s.module == "needle_wanted"] == ["2.0"]


def test_unreadable_entry_points_harm_nobody(site: Site) -> None:
    site.backend("wanted")
    site.install("needle-broken", of("needle_broken", name="other"), None)
    (site.folder / "needle_broken-1.0.dist-info" / "entry_points.txt").write_bytes(b"[needle_core.backends]\nx = \xff\n")
    assert registry.find("backends", "wanted").name == "wanted"
    assert [(s.phase, s.reason[:18]) for s in registry.report() if s.state == "broken" and s.reason] == [
        ("manifest", "UnicodeDecodeError")
    ]


def test_entry_point_that_names_no_module_is_refused(site: Site) -> None:
    site.install("needle-broken", of("needle broken"), None)
    with pytest.raises(
        PluginError, match=r"needle-broken 1.0: manifest: ValueError: .*'needle broken' is not MODULE or MODULE:OBJECT"
    ):
        registry.find("backends", "wanted")


# -- the environment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "takes"),
    [
        ("auto", "abc"),
        ("", "abc"),
        ("none", ""),
        ("a,c", "ac"),
        ("-b", "ac"),
        ("needle-b-backend", "b"),
        ("a, b, -Needle_B.Backend", "a"),
    ],
)
def test_needle_plugins_selects(site: Site, monkeypatch: pytest.MonkeyPatch, setting: str, takes: str) -> None:
    for name in "abc":
        site.backend(name)
    monkeypatch.setenv("NEEDLE_PLUGINS", setting)
    assert [name for name in "abc" if name in registry.names("backends")] == list(takes)


def test_blocked_plugin_is_not_imported_and_the_error_says_why(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    module = site.backend("wanted")
    monkeypatch.setenv("NEEDLE_PLUGINS", "-wanted")
    with pytest.raises(PluginError) as error:
        registry.find("backends", "wanted")
    assert str(error.value) == (
        "needle-wanted-backend 1.0: selection: backend 'wanted' is blocked by NEEDLE_PLUGINS=-wanted\n"
        "  hint: `unset NEEDLE_PLUGINS`"
    )
    assert module not in sys.modules


@pytest.mark.parametrize("setting", ["wanted,misspelt", "-misspelt", "misspelt", "Wanted,misspelt"])
def test_unknown_name_in_needle_plugins_is_an_error_that_lists_the_known(
    site: Site, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    site.backend("wanted")
    monkeypatch.setenv("NEEDLE_PLUGINS", setting)
    with pytest.raises(PluginError, match=rf"NEEDLE_PLUGINS={setting}: no installed plugin is called '.*'\n  known: .*wanted"):
        registry.names("backends")


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("TRUE", True), ("yes", True), ("on", True), ("0", False), ("False", False)]
)
def test_flag_understands(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("NEEDLE_STRICT", text)
    assert flag("NEEDLE_STRICT") is value


@pytest.mark.parametrize("text", ["2", "maybe", "-1", "tru"])
def test_flag_refuses_anything_else(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NEEDLE_STRICT", text)
    with pytest.raises(ArgumentError, match=f"NEEDLE_STRICT={text} is neither true nor false"):
        flag("NEEDLE_STRICT")


def test_strict_mode_raises_at_the_first_need_and_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backend("sound")
    site.install("needle-broken", of("needle_broken"), "raise RuntimeError('boom')")
    monkeypatch.setenv("NEEDLE_STRICT", "1")
    for _ in range(2):
        with pytest.raises(PluginError, match=r"needle-broken 1.0: import: RuntimeError: boom"):
            registry.names("ops")


def test_strict_mode_raises_conflicts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backend("twin", "needle-first"), site.backend("twin", "needle-second")
    monkeypatch.setenv("NEEDLE_STRICT", "1")
    with pytest.raises(PluginError, match="each claims the backend 'twin'"):
        registry.names("ops")


def test_strict_mode_activates_everything(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [site.backend("one"), site.backend("two")]
    monkeypatch.setenv("NEEDLE_STRICT", "1")
    monkeypatch.setenv("NEEDLE_PLUGINS", "one,two")
    assert registry.names("backends") == ["one", "two"]
    assert set(modules) <= set(sys.modules)


# -- the report -----------------------------------------------------------------------------------------------------------


def test_report_gives_every_state_and_loads_only_when_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backend("active"), site.backend("waiting"), site.backend("blocked")
    site.backend("twin", "needle-twin-1"), site.backend("twin", "needle-twin-2")
    site.install("needle-broken", of("needle_broken"), "raise RuntimeError('boom')")
    site.install("needle-gone", of("needle_gone", name="gone"), None)
    monkeypatch.setenv("NEEDLE_PLUGINS", "-blocked")
    registry.find("backends", "active")

    def states(load: bool) -> dict[str, str]:
        return {s.distribution: s.state for s in registry.report(load=load) if s.module in modules}

    modules = {
        f"needle_{n}" for n in ("active_backend", "waiting_backend", "blocked_backend", "twin_1", "twin_2", "broken", "gone")
    }
    lazy = {
        "needle-active-backend": "active",
        "needle-blocked-backend": "blocked",
        "needle-broken": "not loaded yet",
        "needle-gone": "stale",
        "needle-twin-1": "conflict",
        "needle-twin-2": "conflict",
        "needle-waiting-backend": "not loaded yet",
    }
    assert states(load=False) == lazy
    assert "needle_waiting_backend" not in sys.modules
    assert states(load=True) == {**lazy, "needle-broken": "broken", "needle-waiting-backend": "active"}
    assert "needle_blocked_backend" not in sys.modules


def test_why_loads_the_plugin_that_is_asked_for(site: Site) -> None:
    site.install("needle-broken", of("needle_broken"), "raise RuntimeError('boom')")
    other = site.backend("other")
    for name in ("wanted", "needle-broken", "Needle.Broken"):
        (status,) = registry.why(name)
        assert (status.state, status.phase, status.reason) == ("broken", "import", "RuntimeError: boom")
        assert isinstance(status.cause, RuntimeError)
    assert other not in sys.modules


@pytest.mark.parametrize(
    ("group", "distribution", "names"),
    [
        ("ops", "needle-extra-ops", ["needle-extra-ops", "Needle.Extra_Ops", "extra-ops", "extra_ops", "wanted", "Wanted"]),
        ("optimizers", "needle-optimizers", ["optimizers", "needle_optimizers"]),
        ("backends", "needle-fast-backend", ["needle-fast-backend", "fast-backend", "fast"]),
    ],
)
def test_plugin_answers_to_its_distribution_with_or_without_what_all_are_called(
    site: Site, group: str, distribution: str, names: list[str]
) -> None:
    site.install(distribution, of("needle_gone", group=group), None)
    for name in names:
        assert [status.distribution for status in registry.why(name)] == [distribution]


def test_only_backends_answer_without_backend(site: Site) -> None:
    site.install("needle-fast-backend", of("needle_gone", group="ops"), None)
    with pytest.raises(PluginError, match="no installed plugin is called 'fast'"):
        registry.why("fast")


def test_activated_gives_the_active_plugins_of_a_name(site: Site) -> None:
    site.backend("wanted")
    (activation,) = registry.activated("needle-wanted-backend")
    assert activation.staged["backends"]["wanted"] is registry.find("backends", "wanted")
    assert registry.activated("nobody") == []


def test_activated_raises_what_is_wrong_with_a_plugin(site: Site) -> None:
    site.install("needle-broken", of("needle_broken"), "raise RuntimeError('boom')")
    with pytest.raises(PluginError, match="RuntimeError: boom"):
        registry.activated("broken")


def test_why_of_an_unknown_name_is_an_error(site: Site) -> None:
    with pytest.raises(PluginError, match="no installed plugin is called 'nobody'"):
        registry.why("nobody")


@pytest.mark.parametrize("group", ["needle_core.op", "needle-core.ops", "needle.core.ops"])
def test_distribution_with_a_misspelt_group_is_found_and_told(site: Site, group: str) -> None:
    site.install("needle-sincos", {"ops": {"sincos": "needle_sincos"}}, HEAD)
    (entries,) = site.folder.glob("*/entry_points.txt")
    entries.write_text(f"[{group}]\nsincos = needle_sincos\n")
    with pytest.raises(PluginError) as caught:
        registry.why("sincos")
    assert caught.value.summary == f"needle-sincos is installed, but is no plugin: it has entry points in {group}"
    assert 'did you mean [project.entry-points."needle_core.ops"]?' in str(caught.value)


def test_distribution_without_entry_points_is_told(site: Site) -> None:
    site.install("needle-sincos", {}, HEAD)
    with pytest.raises(
        PluginError, match="needle-sincos is installed, but is no plugin: it has entry points in no group"
    ) as it:
        registry.why("needle-sincos")
    assert it.value.hint is None


@pytest.mark.parametrize("value", ["needle_sincoss", "needle_sincoss.ops", "needle_sincoss:plugin"])
def test_misspelt_module_is_no_left_over(site: Site, value: str) -> None:
    site.install("needle-sincos", {"ops": {"sincos": value}}, HEAD)
    with pytest.raises(PluginError, match="the entry point names the module needle_sincoss, which does not exist") as caught:
        registry.find("ops", "sincos")
    assert "pip uninstall" not in str(caught.value)
    assert [(s.state, s.phase) for s in registry.why("sincos")] == [("broken", "import")]


def test_object_without_api_in_a_module_that_has_it_is_told(site: Site) -> None:
    source = HEAD + OP.format(name="sincos")
    site.install("needle-sincos", {"ops": {"sincos": "needle_sincos:sincos"}}, source)
    with pytest.raises(PluginError, match="names sincos in needle_sincos, which has no needle_api") as caught:
        registry.find("ops", "sincos")
    assert isinstance(caught.value.__cause__, PluginError)
    assert caught.value.__cause__.hint == "the entry point names what has needle_api and the hooks: needle_sincos"


def test_errors_name_the_file_of_the_module_wherever_it_is(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("needle-sincos", {"ops": {"sincos": "needle_sincos"}}, None)
    (tmp_path / "needle_sincos.py").write_text("1 / 0")  # as an editable installation has it
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError) as caught:
        registry.find("ops", "sincos")
    assert caught.value.details["plugin"] == f"needle_sincos in {tmp_path}/needle_sincos.py"
