"""`python -m bert4keras.migrate`."""

import sys

from bert4keras.migrate import main

sys.exit(main())
