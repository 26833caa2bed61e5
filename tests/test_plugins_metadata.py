"""Entry points are found wherever importlib.metadata finds them, and nothing else is read."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needle_core.plugins import registry
from needle_core.plugins.metadata import installed
from tests.plugin_fixtures import HEAD, SOUND, Site, of, site

__all__ = ["site"]

pytestmark = pytest.mark.once


def found(name: str) -> list[tuple[str, str]]:
    """Version and site of the distributions called `name`."""
    return [(i.version, i.site) for i in installed() if i.name == name]


def test_finds_what_importlib_finds(site: Site) -> None:
    site.backend("wanted"), site.install("needle-op", of("needle_op:plugin", group="ops"), HEAD)
    site.install("unrelated", {}, "")
    theirs = {
        (d.name, d.version, e.group, e.name, e.value)
        for d in importlib.metadata.distributions()
        for e in d.entry_points
        if e.group.startswith("needle_core.")
    }
    ours = {(i.name, i.version, *entry) for i in installed() for entry in i.entry_points if entry[0].startswith("needle_core.")}
    assert ours == theirs
    assert ("needle-wanted-backend", "1.0", "needle_core.backends", "wanted", "needle_wanted_backend") in ours


def test_distributions_in_plain_folders_are_read_without_importlib_metadata(site: Site) -> None:
    site.backend("wanted")
    done = site.python("""
        import sys
        from needle_core.plugins import registry
        print("wanted" in registry.names("backends"), sorted({"importlib.metadata", "zipfile", "email"} & set(sys.modules)))
        registry.find("backends", "wanted")
        print("importlib.metadata" in sys.modules)
    """)
    assert (done.stdout, done.stderr) == ("True []\nFalse\n", "")


def test_metadata_of_others_is_not_read(site: Site) -> None:
    site.backend("wanted")
    for letter in "abc":
        site.install(f"other-{letter}", {}, "")
        (site.folder / f"other_{letter}-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\na = b:c\n")
    done = site.python(
        """
        import sys
        read = []
        sys.addaudithook(lambda event, args: read.append(str(args[0])) if event == "open" else None)
        from needle_core.plugins.metadata import installed
        list(installed())
        print([path.split("/")[-2] for path in read if path.endswith("METADATA") and path.startswith(sys.argv[1])])
    """.replace("sys.argv[1]", repr(str(site.folder)))
    )
    assert (done.stdout, done.stderr) == ("['needle_wanted_backend-1.0.dist-info']\n", "")


def test_zip_file_on_the_path(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Site(tmp_path / "inner")
    inner.backend("zipped")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", inner.folder)
    monkeypatch.syspath_prepend(archive)
    assert [version for version, _ in found("needle-zipped-backend")] == ["1.0"]
    assert registry.find("backends", "zipped").name == "zipped"


@pytest.mark.parametrize("info", ["needle_old.egg-info", "needle_old.egg/EGG-INFO"])
def test_older_forms_of_metadata(site: Site, monkeypatch: pytest.MonkeyPatch, info: str) -> None:
    folder = site.folder / info
    folder.mkdir(parents=True)
    (folder / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: needle-old\nVersion: 0.9\n")
    (folder / "entry_points.txt").write_text("[needle_core.backends]\nwanted = needle_old\n")
    (folder.parent / "needle_old.py").write_text(SOUND)
    monkeypatch.syspath_prepend(str(folder.parent))
    assert found("needle-old") == [("0.9", str(folder.parent))]
    assert registry.find("backends", "wanted").name == "wanted"


def test_metadata_in_a_single_file_has_no_entry_points(site: Site) -> None:
    (site.folder / "needle_older.egg-info").write_text("Metadata-Version: 1.0\nName: needle-older\nVersion: 0.1\n")
    assert found("needle-older") == []


def test_other_importers_are_asked(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Site(tmp_path / "elsewhere")
    inner.backend("hidden")

    class Importer:
        def find_spec(self, *args: Any) -> None:
            return None

        def find_distributions(self, context: Any) -> Iterator[importlib.metadata.Distribution]:
            here = importlib.metadata.DistributionFinder.Context(path=[str(inner.folder)])
            return iter(importlib.metadata.MetadataPathFinder.find_distributions(here))

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Importer()])
    assert [version for version, _ in found("needle-hidden-backend")] == ["1.0"]


def test_entry_on_the_path_that_does_not_exist_is_passed_over(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backend("wanted")
    monkeypatch.syspath_prepend(str(site.folder / "nowhere"))
    assert found("needle-wanted-backend") == [("1.0", str(site.folder))]


def test_current_folder_is_on_the_path_as_an_empty_string(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backend("wanted")
    monkeypatch.chdir(site.folder)
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if entry != str(site.folder))])
    assert found("needle-wanted-backend") == [("1.0", ".")]


def test_comments_spaces_and_windows_line_ends_are_read(site: Site) -> None:
    site.install("needle-spaced", {}, SOUND)
    info = site.folder / "needle_spaced-1.0.dist-info"
    (info / "entry_points.txt").write_bytes(
        b"# what it offers\r\n\r\n[needle_core.backends]\r\n  wanted=needle_spaced  \r\n; the end\r\n"
    )
    (info / "METADATA").write_bytes(b"Metadata-Version: 2.1\r\nName: needle-spaced\r\nVersion: 1.5\r\n\r\nName: other\r\n")
    assert found("needle-spaced") == [("1.5", str(site.folder))]
    assert registry.find("backends", "wanted").name == "wanted"


def test_line_that_is_no_entry_point_is_named(site: Site) -> None:
    site.backend("wanted")
    site.install("needle-broken", {}, None)
    (site.folder / "needle_broken-1.0.dist-info" / "entry_points.txt").write_text("[needle_core.ops]\nneedle_broken\n")
    (status,) = registry.why("needle-broken")
    assert (status.state, status.phase) == ("broken", "manifest")
    assert status.reason == "ValueError: 'needle_broken' in entry_points.txt is no entry point"
    assert registry.find("backends", "wanted").name == "wanted"
