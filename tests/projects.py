"""Projects with a pyproject.toml, installed into a site as their wheels would be, without a network."""

from __future__ import annotations

import importlib
import shutil
import tomllib
from pathlib import Path

from tests.plugin_fixtures import Site


def install(site: Site, project: Path) -> str:
    """Install the project in the folder `project`; the name of its distribution."""
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    about = table["project"]
    for package in table["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        shutil.copytree(project / package, site.folder / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    info = site.folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    fields = {"Metadata-Version": "2.4", "Name": about["name"], "Version": about["version"], "Summary": about["description"]}
    (info / "METADATA").write_text("".join(f"{k}: {v}\n" for k, v in fields.items()), encoding="utf-8")
    groups = (f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in es.items()) for group, es in about["entry-points"].items())
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    importlib.invalidate_caches()
    return str(about["name"])
