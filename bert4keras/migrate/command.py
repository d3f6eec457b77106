"""The command line: `python -m bert4keras.migrate`."""

import argparse
import difflib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bert4keras.migrate.comments import PREFIX
from bert4keras.migrate.files import Folder, Script, version_of
from bert4keras.migrate.text import write_text

HELP = f"""
Rewrites scripts for bert4keras 0.11.5 and before, on Keras 2, in place. Give all scripts that
belong together, or their folder: names, and files that one saves and another loads, are followed
from script to script. The original of x.py is kept as x.py.orig. What is left to you has a comment
above its line, which begins with "{PREFIX.strip()}" and says what to use instead; the summary at
the end lists them.
"""
EPILOG = """
examples:
  python -m bert4keras.migrate --diff train.py     print what would change, write nothing
  python -m bert4keras.migrate train.py serve.py   rewrite two scripts that belong together
  python -m bert4keras.migrate .                   rewrite all scripts in this folder
  python -m bert4keras.migrate --check .           ends with 1 if something is to do

The exit status is 1 if a file could not be read or written, or with --check if something is to do.
"""


class Report:
    """The summary of a run.

    Args:
        writes: whether files are written.
    """

    def __init__(self, writes: bool):
        self.writes = writes
        self.files = 0
        self.changed = 0
        self.lines = 0
        self.failed: list[str] = []
        self.marks: list[str] = []

    def note(self, path: Path, script: Script) -> None:
        """Count the changes and marks of a script."""
        self.files += 1
        self.changed += script.changed
        self.lines += changed_lines(script)
        self.marks += [f"{path}:{number}: {advice}" for number, advice in script.marks()]

    def fail(self, message: str) -> None:
        """Record a file that could not be rewritten."""
        self.files += 1
        self.failed.append(message)
        print(message, file=sys.stderr)

    def summary(self) -> Iterator[str]:
        """Yield the lines of the summary."""
        verb = "changed" if self.writes else "to change"
        yield f"{count(self.changed, 'file')} of {self.files} {verb}, {count(self.lines, 'line')}."
        if self.failed:
            yield f"{count(len(self.failed), 'file')} could not be rewritten, see above."
        if self.marks:
            yield f"{count(len(self.marks), 'place')} left to you:"
            yield from (f"  {mark}" for mark in self.marks)


def count(number: int, thing: str) -> str:
    """Return a number with a noun in singular or plural."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def changed_lines(script: Script) -> int:
    """Return the number of added or of removed lines, whichever is larger."""
    old, new = (Counter(text.splitlines()) for text in (script.old.text, script.new))
    return max((new - old).total(), (old - new).total())


def diff(path: Path, script: Script) -> str:
    """Return the changes as a unified diff."""
    lines = (text.splitlines(keepends=True) for text in (script.old.text, script.new))
    changed = difflib.unified_diff(*lines, str(path), str(path))
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in changed)


def migrate_files(paths: Sequence[str | Path], diff_only: bool = False, check: bool = False) -> int:
    """Rewrite scripts in place, or print what would change.

    Args:
        paths: scripts, and folders that are searched for `*.py`.
        diff_only: print the differences and write nothing.
        check: write nothing.

    Returns:
        1 if a file could not be read or written, or if `check` finds something to do; otherwise 0.
    """
    folder = Folder(paths)
    for copy in folder.copies:
        print(
            f"{copy} is a copy of the library ({version_of(copy)}). Scripts in the same folder "
            "import it instead of the installed one, and then fail. It is not changed: rename or "
            "delete it, and move your changes of it to classes of your own."
        )
    report = Report(writes=not (diff_only or check))
    for path in folder.scripts.values():
        try:
            script = folder.rewritten(path)
            if diff_only:
                sys.stdout.write(diff(path, script))
            elif script.changed and not check:
                kept = write_text(script.old, script.new)
                print(f"{path}: {count(changed_lines(script), 'line')} changed, see {kept.name}")
            report.note(path, script)
        except (ValueError, OSError) as error:
            report.fail(str(error) if isinstance(error, ValueError) else f"{path}: {error}")
        except Exception as error:
            report.fail(
                f"{path}: not changed, because of a bug in migrate: {type(error).__name__}: {error}"
            )
    print("\n".join(report.summary()))
    to_do = report.changed or report.marks or folder.copies
    return int(bool(report.failed or (check and to_do)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bert4keras.migrate",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scripts", nargs="+", metavar="SCRIPT", help="a file, or a folder of them")
    parser.add_argument("--diff", action="store_true", help="print the changes and write nothing")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; end with 1 if something is to do"
    )
    options = parser.parse_args(arguments)
    try:
        return migrate_files(options.scripts, options.diff, options.check)
    except KeyboardInterrupt:
        print("interrupted; files not listed above are unchanged", file=sys.stderr)
        return 130
