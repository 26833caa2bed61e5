"""Activation: what plugins may need meanwhile, what interrupts it, and who else sets it off."""

from __future__ import annotations

import sys

import pytest

import needle_core as ndl
from needle_core import Tensor, op
from needle_core.errors import ArgumentError, PluginError
from needle_core.plugins import registry
from tests.plugin_fixtures import KERNEL, SOUND, Site, hook, of, site

__all__ = ["site"]

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _kernels_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins of these tests bring kernels to backends that stay open."""
    ndl.device("numpy")
    monkeypatch.setattr(op, "KERNELS", dict(op.KERNELS))


@pytest.mark.parametrize(("number", "upgrade"), [(0, "needle-broken"), (2, "needle-core")])
def test_other_api_number_says_what_to_upgrade(site: Site, number: int, upgrade: str) -> None:
    site.install("needle-broken", of("needle_broken"), f"needle_api = {number}")
    with pytest.raises(PluginError, match=f"hint: `pip install --upgrade {upgrade}`"):
        registry.find("backends", "wanted")


def test_class_of_an_op_is_refused_with_the_remedy(site: Site) -> None:
    source = hook("needle_register_ops", "from needle_core import TensorOp; registrar.op(type('Swish', (TensorOp,), {}))")
    site.install("needle-broken", of("needle_broken", group="ops"), source)
    with pytest.raises(PluginError, match=r"registrar\.op\(Swish\(\)\) registers an instance"):
        registry.find("ops", "wanted")


def test_registrar_is_closed_after_the_hook(site: Site) -> None:
    source = SOUND.replace("registrar.backend(Device)", "registrar.backend(Device); global kept; kept = registrar")
    module = site.install("needle-late", of("needle_late"), source)
    device = registry.find("backends", "wanted")
    with pytest.raises(ArgumentError, match="belongs in needle_register_backends, and came after the hooks were through"):
        sys.modules[module].kept.backend(device)


def test_submodules_of_a_failed_import_are_dropped_and_other_modules_stay(site: Site) -> None:
    (site.folder / "needle_broken").mkdir()
    (site.folder / "needle_broken" / "__init__.py").write_text(
        "import needle_bystander, needle_broken.part; raise RuntimeError"
    )
    (site.folder / "needle_broken" / "part.py").write_text("")
    (site.folder / "needle_bystander.py").write_text("")
    site.install("needle-broken", of("needle_broken"), None)
    with pytest.raises(PluginError):
        registry.find("backends", "wanted")
    assert not {"needle_broken", "needle_broken.part"} & set(sys.modules)
    assert "needle_bystander" in sys.modules


def test_failed_import_cannot_change_the_path(site: Site) -> None:
    site.install(
        "needle-broken",
        of("needle_broken"),
        "import sys; sys.path.append('/nowhere'); sys.path = [*sys.path]; raise RuntimeError",
    )
    path, entries = sys.path, list(sys.path)
    with pytest.raises(PluginError):
        registry.find("backends", "wanted")
    assert sys.path is path
    assert path == entries


def test_keyboard_interrupt_passes_and_is_not_remembered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import os\nif 'INTERRUPTED' in os.environ: raise KeyboardInterrupt\n" + SOUND
    module = site.install("needle-slow", of("needle_slow"), source)
    monkeypatch.setenv("INTERRUPTED", "1")
    with pytest.raises(KeyboardInterrupt):
        registry.find("backends", "wanted")
    assert module not in sys.modules
    monkeypatch.delenv("INTERRUPTED")
    assert registry.find("backends", "wanted").name == "wanted"


@pytest.mark.parametrize("strict", ["0", "1"])
def test_plugin_may_need_another(site: Site, monkeypatch: pytest.MonkeyPatch, strict: str) -> None:
    monkeypatch.setenv("NEEDLE_STRICT", strict)
    monkeypatch.setenv("NEEDLE_PLUGINS", "wanted,other")
    site.backend("other")
    site.install(
        "needle-needy",
        of("needle_needy"),
        "from needle_core.plugins import registry\nregistry.find('backends', 'other')\n" + SOUND,
    )
    assert registry.find("backends", "wanted").name == "wanted"


# -- asking in other ways -----------------------------------------------------------------------------------------------------


def test_primitive_imported_from_its_plugin_finds_its_kernels(site: Site) -> None:
    site.install("needle-culprit", of("needle_culprit", group="ops"), KERNEL.format(kernel="lambda x: x * 2"))
    import needle_culprit

    assert "wanted" not in op.OPS
    assert needle_culprit.wanted(Tensor([1.0, 2.0], device="numpy")).tolist() == [2, 4]
    assert op.OPS["wanted"] is needle_culprit.wanted


def test_primitive_imported_from_a_broken_plugin_says_what_is_wrong(site: Site) -> None:
    source = KERNEL.format(kernel="lambda x: x * 2").replace("needle_api = 1", "needle_api = 7")
    site.install("needle-culprit", of("needle_culprit", group="ops"), source, version="2.1")
    import needle_culprit

    with pytest.raises(PluginError, match=r"wanted: needle-culprit 2.1: check: needle_api is 7"):
        needle_culprit.wanted(Tensor([1.0], device="numpy"))


def test_composite_of_a_script_asks_no_plugin_of_that_name(site: Site) -> None:
    site.install("needle-culprit", of("needle_culprit", group="ops"), "raise RuntimeError('boom')")

    @ndl.composite(lambda x: (x, {}))
    def wanted(x: Tensor) -> Tensor:
        return x * 2.0

    assert wanted(Tensor([1.0], device="numpy")).tolist() == [2]


def test_broken_op_is_an_error_in_hasattr_and_in_import_rather_than_not_there(site: Site) -> None:
    site.install("needle-culprit", of("needle_culprit", group="ops"), "raise RuntimeError('boom')", version="2.1")
    text = "needle-culprit 2.1: import: RuntimeError: boom"
    with pytest.raises(PluginError, match=text):
        hasattr(ndl.ops, "wanted")
    with pytest.raises(PluginError, match=text):
        from needle_core.ops import wanted  # noqa: F401
    assert not hasattr(ndl.ops, "nobody")
    assert "wanted" in dir(ndl.ops)
