"""Rewrite scripts for bert4keras 0.11.5 and before, on Keras 2, for this library.

    python -m bert4keras.migrate train.py serve.py   # edits them; the originals are kept as *.orig
    python -m bert4keras.migrate --diff scripts/     # prints what would change

rules       the changes, as tables
command     the command line and its output
files       the files that are scripts, and their new texts
text        reading of files in any encoding, and safe writing
project     the modules that scripts import from each other
rewriting   `migrate`: the walk over the syntax tree of a script
patterns    recognition of functions that compute gradients
gradients   replacement of these functions by training steps
sessions    removal of sessions and graphs
classes     classes of scripts: callbacks and layers
parts       the base class of the rewriters of a script
library     names in the installed packages
survey      facts about a script that rewriters need: models, star imports
imports     existing and additional imports
references  names and attributes
calls       calls of functions and methods
arguments   arguments of calls
metrics     `add_metric` of layers
comments    comments on places that have to be changed by hand
names       resolution of names to full names, in old and new versions
scopes      scopes and bindings of names
edits       changes of a text at positions
source      a script as text and syntax tree

`docs/migration_en.md` lists every difference.
"""

from bert4keras.migrate.command import main, migrate_files
from bert4keras.migrate.rewriting import migrate

__all__ = ["main", "migrate", "migrate_files"]
