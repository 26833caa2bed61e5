"""A command in a process of its own, so that whatever ends that process is told: os._exit(0) in a plugin, or a fault of memory.

The command shares the streams of its parent, and says in a file what it is doing; the parent reads it if the command ends
without a word. `doctor` goes further: there each plugin has a process of its own.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TextIO

from needle_core.errors import NeedleError

_CHILD: Final = "from needle_core.diagnosis.supervision import child; child()"
_DONE: Final = "done"

_journal: TextIO | None = None  # in a process that is supervised


def supervise(arguments: list[str]) -> int:
    """The exit status of `needle` with these `arguments`. Raises NeedleError if its process did not come to its own end."""
    with TemporaryDirectory() as folder:
        journal = Path(folder, "journal")
        journal.write_text(json.dumps([f"`needle {shlex.join(arguments)}`", "needle doctor"]), encoding="utf-8")
        with subprocess.Popen([sys.executable, "-P", "-X", "faulthandler", "-c", _CHILD, str(journal), *arguments]) as process:
            before = {  # Ctrl-C goes to both, and is the command's to answer
                signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
                signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
            }
            try:
                status = process.wait()
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        last = journal.read_text(encoding="utf-8")
    if status >= 0 and last == _DONE:
        return status
    ending = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    if last == _DONE:
        raise NeedleError(f"the process ended ({ending}) after all was done")
    what, command = json.loads(last)
    raise NeedleError(f"the process ended ({ending}) in {what}", hint=f"`{command}`")


def doing(what: str, command: str) -> None:
    """Say what this process does next, if it is supervised, and the `command` that does the same again."""
    if _journal is not None:
        _write(_journal, json.dumps([what, command]))


def child() -> None:
    """Run the command line as the process of a command: the first argument is the file to write to."""
    global _journal
    from needle_core.cli import run

    with Path(sys.argv.pop(1)).open("r+", encoding="utf-8") as _journal:
        try:
            run()
        finally:  # os._exit and signals do not come here
            _write(_journal, _DONE)
            _journal = None


def _write(journal: TextIO, text: str) -> None:
    journal.seek(0)
    journal.write(text)
    journal.truncate()
    journal.flush()
